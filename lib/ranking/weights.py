"""What a filter's own weights say of it, without looking at an image."""

from lib.network import conv_layers
from lib.ranking.registry import Evidence, Scores, ranking


@ranking("weight norm")
def weight_norm(evidence: Evidence) -> Scores:
    """(1, F): L2 norm of the filter's weights, without its bias. The usual pruning criterion (Li et
    al. 2017, section 3.1; they take the L1 norm). A batch norm behind the convolution is not
    looked at."""
    return {
        layer: conv.weight.detach().double().flatten(1).norm(dim=1)[None].cpu()
        for layer, conv in conv_layers(evidence.model).items()
    }
