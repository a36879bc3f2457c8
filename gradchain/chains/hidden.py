"""Recognize embeddings, heads and other matrices that are not hidden weights, by the names that models give them.

Hidden matrices map hidden features to hidden features: attention, feed-forward layers, convolutions. The others are

embeddings   rows that are looked up or added: embed_tokens.weight, wte.weight, pos_embed, cls_token, prompt_embeddings
heads        the last layer: lm_head.weight, classifier.weight, score.weight
elementwise  biases and scales of more than one dimension: experts.down_proj_bias, q_norm.weight

Some words mean a head only outside of the layers: output.weight is Llama's head, layer.0.output.dense.weight a hidden matrix.
"""

from __future__ import annotations

import re

_ANYWHERE = re.compile(  # a parameter, or a module anywhere above it
    r"""\w*emb(e?d\w*)?        # embed_tokens, pos_embed, positional_embedding, tok_emb, word_embeddings, embed_out
    | (\w*_)?(wte|wpe)
    | \w*head(_dist)?          # lm_head, DeiT's head_dist
    | (\w*_)?classifier        # also all of VGG's classifier.0, .3 and .6
    """,
    re.VERBOSE,
)
_HOLDER = re.compile(  # a parameter, or the module whose weight it is
    r"""(?!to_)(\w*_)?tokens?                       # cls_token, register_tokens, query_tokens, SAM's mask_tokens
    | (object_|learned_|latent_)quer(y|ies) | query_(pos|feat)
    | (\w*_)?codebooks?
    | (\w*_)?table                                  # relative_position_bias_table, scale_shift_table
    | (\w*_)?rel_pos(_[a-z])? | pos(ition(s|al)?)?(_enc(oding)?s?)?
    | (\w*_)?bias(es)?(_[a-z0-9]+)?                 # relative_attention_bias, down_proj_bias, bias_k
    | \w*norm(_?[a-z0-9])?                          # q_norm, norm1, layer_norm
    """,
    re.VERBOSE,
)
_PARAMETER = re.compile(  # a parameter itself; modules of these names hold hidden matrices
    r"(\w*_)?(latents?|query|queries|prompts?|prefix) | probe | pe | freqs | a_logs?", re.VERBOSE
)
_SHARED = "shared"  # the embedding of T5 and BART
_OUTSIDE = re.compile(  # the last module, where no layer or block is around it
    r"(\w*_)?score | decoder | output(_layer|_projection|_proj)? | (to_)?logits | fc_out | qa_outputs | seq_relationship",
    re.VERBOSE,
)
_TOP = {"proj_out"}  # the last module, where nothing is around it: Whisper's head
_BLOCK = re.compile(r"\d+|\w*(att|mlp|ffn|feed_?forward|block|layer)\w*")
_INSIDE = {"base_layer", "original_module", "modules_to_save", "parametrizations", "lora_a", "lora_b"}  # of another module


def is_no_hidden_matrix(name: str) -> bool:
    """Whether a parameter of this name, without wrappers, is an embedding, a head, a bias or a norm."""
    *path, own = name.lower().split(".")
    if any(map(_ANYWHERE.fullmatch, (*path, own))):
        return True
    if (inside := next((i for i, word in enumerate(path) if word in _INSIDE), 0)) > 0:
        path, own = path[:inside], "weight"
    if own not in ("weight", "kernel") or not path:
        return any(pattern.fullmatch(own) for pattern in (_HOLDER, _PARAMETER))
    *above, module = path
    if _HOLDER.fullmatch(module) or module == _SHARED or (module in _TOP and not above):
        return True
    return _OUTSIDE.fullmatch(module) is not None and not any(map(_BLOCK.fullmatch, above))
