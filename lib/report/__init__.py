"""Tables to a reader: numbers (`statistics`), claims as a table (`claims`), what the paper says
(`paper`), figures, words, `answers` and the page and README parts made of them (`page`), and a
notebook's begin and end (`session`). Nothing here imports torch."""
