"""Tables to a reader: numbers (`statistics`), claims as a table (`claims`), what the paper says
(`paper`), figures, words, the page and README parts (`page`), and a notebook's begin and end
(`session`). Nothing here imports torch."""
