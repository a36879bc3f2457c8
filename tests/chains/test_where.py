"""Rules on names: which parameters of real models are hidden matrices, and what wrappers of models change about it."""

import re

import pytest
import torch
from torch import nn
from training import param

from gradchain import chain, masked, partition, presets
from gradchain import transforms as t
from gradchain.chains import biases_and_norms, hidden_matrices, in_modules, matrices
from gradchain.chains.where import rule

HIDDEN = {
    "GPT-2, nanoGPT": "transformer.h.0.attn.c_attn.weight transformer.h.0.attn.c_proj.weight transformer.h.11.mlp.c_fc.weight",
    "Llama": "model.layers.0.self_attn.q_proj.weight model.layers.0.mlp.down_proj.weight",
    "Llama's own code": "layers.0.attention.wq.weight layers.0.attention.wo.weight layers.0.feed_forward.w2.weight",
    "torchtune": "layers.0.attn.output_proj.weight layers.0.mlp.w1.weight decoder.layers.3.attn.q_proj.weight",
    "T5": "encoder.block.0.layer.0.SelfAttention.q.weight decoder.block.0.layer.1.EncDecAttention.o.weight "
    "decoder.block.0.layer.2.DenseReluDense.wi_0.weight",
    "BERT": "bert.encoder.layer.0.attention.self.query.weight bert.encoder.layer.0.attention.output.dense.weight "
    "bert.encoder.layer.0.output.dense.weight bert.pooler.dense.weight cls.predictions.transform.dense.weight",
    "BART, Whisper": "model.decoder.layers.0.fc1.weight model.decoder.layers.0.encoder_attn.out_proj.weight "
    "decoder.blocks.0.attn.out.weight encoder.conv1.weight model.encoder.conv2.weight",
    "timm": "blocks.0.attn.qkv.weight blocks.0.mlp.fc1.weight stages.0.blocks.0.conv_dw.weight layer1.0.conv1.weight",
    "CLIP": "visual.conv1.weight transformer.resblocks.0.attn.in_proj_weight text_model.encoder.layers.0.mlp.fc1.weight "
    "vision_model.encoder.layers.0.self_attn.k_proj.weight",
    "experts": "model.layers.0.mlp.experts.gate_up_proj model.layers.1.mlp.experts.3.w1.weight "
    "model.layers.1.mlp.shared_experts.up_proj.weight model.layers.0.mlp.shared_expert.down_proj.weight",
    "diffusers": "transformer_blocks.0.attn1.to_out.0.weight down_blocks.0.attentions.0.proj_out.weight norm1.linear.weight",
    "recurrent": "lstm.weight_ih_l0 rnn.weight_hh_l1",
    "LoRA": "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight layers.0.fc.base_layer.weight",
    "no names": "0.3 0.0 12.7",
    "others": "block.0.mlp.weight attention.head_proj.weight blocks.1.weight attention.queries.weight fc.weight "
    "block.0.output.weight layer.attention.output.weight blocks.0.decoder.weight blocks.0.sa.heads.0.key.weight",
}
OTHERS = {
    "GPT-2, nanoGPT": "transformer.wte.weight transformer.wpe.weight lm_head.weight wte.weight",
    "Llama": "model.embed_tokens.weight lm_head.weight score.weight",
    "Llama's own code": "tok_embeddings.weight output.weight",
    "torchtune": "tok_embeddings.weight output.weight decoder.output.weight",
    "T5, BART": "shared.weight model.shared.weight encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight "
    "encoder.embed_tokens.weight model.encoder.embed_positions.weight lm_head.weight classification_head.out_proj.weight",
    "BERT": "bert.embeddings.word_embeddings.weight bert.embeddings.token_type_embeddings.weight "
    "cls.predictions.decoder.weight lm_head.decoder.weight decoder.weight "
    "cls.seq_relationship.weight classifier.weight qa_outputs.weight",
    "GPT-NeoX, GPT-J, OPT": "gpt_neox.embed_in.weight embed_out.weight transformer.embd.weight decoder.embed_positions.weight",
    "ChatGLM, fairseq": "transformer.embedding.word_embeddings.weight transformer.output_layer.weight "
    "decoder.output_projection.weight",
    "ViT, timm": "cls_token pos_embed reg_token dist_token head.weight head_dist.weight head.fc.weight classifier.weight "
    "blocks.0.attn.relative_position_bias_table layers.0.blocks.1.attn.relative_position_bias_table absolute_pos_embed "
    "attn_pool.latent vit.embeddings.cls_token vit.embeddings.position_embeddings blocks.2.attn.rel_pos_h",
    "torchvision": "class_token encoder.pos_embedding heads.head.weight classifier.6.weight",
    "CLIP, SigLIP": "positional_embedding token_embedding.weight visual.class_embedding visual.positional_embedding "
    "text_model.embeddings.token_embedding.weight vision_model.head.probe",
    "Whisper": "decoder.token_embedding.weight decoder.positional_embedding proj_out.weight model.decoder.embed_tokens.weight",
    "BLIP-2, Flamingo, DETR": "query_tokens perceiver.latents query_embed.weight class_embed.weight mask_tokens.weight",
    "PEFT": "prompt_embeddings prompt_encoder.default.embedding.weight base_model.model.score.modules_to_save.default.weight "
    "base_model.model.lm_head.lora_A.default.weight base_model.model.model.embed_tokens.lora_embedding_A.default",
    "experts": "model.layers.0.mlp.experts.down_proj_bias model.layers.0.self_attn.q_norm.weight",
    "Transformer-XL": "transformer.layers.0.dec_attn.r_w_bias",
    "diffusion transformers": "scale_shift_table pos_emb.weight",
}


def names(table):
    return [name for row in table.values() for name in row.split()]


@pytest.mark.parametrize("name", names(HIDDEN))
def test_what_maps_hidden_features_is_a_hidden_matrix(name):
    assert hidden_matrices(name, param(3, 3))
    assert not hidden_matrices(name, param(3))


@pytest.mark.parametrize("name", names(OTHERS))
def test_embeddings_heads_and_what_works_elementwise_are_no_hidden_matrices(name):
    assert not hidden_matrices(name, param(3, 3))


WRAPPED = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "_fsdp_wrapped_module.", "_forward_module."]


@pytest.mark.parametrize("prefix", WRAPPED)
def test_rules_see_names_without_what_wrappers_put_in(prefix):
    p = param(3, 3)
    net = nn.ModuleDict({"embed": nn.Embedding(3, 3)})
    for wanted in (in_modules(net, nn.Embedding), rule("embed.*"), rule(re.compile("embed.weight")), ~hidden_matrices):
        assert wanted(f"{prefix}embed.weight", p) and not wanted(f"{prefix}fc.weight", p)
    assert rule(lambda name, parameter: name == "fc.weight")(f"{prefix}fc.weight", p)
    assert rule(f"{prefix}fc.*")(f"{prefix}fc.weight", p), "a pattern may be written for the whole name too"


def test_wrappers_within_a_name_are_left_out_too():
    name = "layers._fsdp_wrapped_module.0._checkpoint_wrapped_module.fc.weight"
    assert rule("layers.0.fc.weight")(name, param(2)) and not rule("layers.1.*")(name, param(2))
    assert not rule("a.module.*")("a.b", param(2)) and rule("a.module.b")("a.module.b", param(2))


def test_modules_are_found_in_a_compiled_model():
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4))
    wrapped = torch.compile(net, backend="eager")
    for model, other in ((net, wrapped), (wrapped, net), (wrapped, wrapped)):
        wanted = in_modules(model, nn.Embedding)
        assert [name[-8:] for name, p in other.named_parameters() if wanted(name, p)] == ["0.weight"]


def test_a_function_that_labels_parameters_sees_names_without_wrappers():
    recipe = partition({"a": presets.sgd(), "b": presets.sgd()}, by=lambda name, p: "a" if name.startswith("fc") else "b")
    optimizer = recipe.optimizer([("_orig_mod.fc.weight", param(2)), ("_orig_mod.head.weight", param(2))])
    assert [(group["label"], group["param_names"]) for group in optimizer.param_groups] == [
        ("a", ["_orig_mod.fc.weight"]),
        ("b", ["_orig_mod.head.weight"]),
    ]


def test_a_mask_that_is_a_plain_function_sees_names_without_wrappers():
    recipe = chain(t.Momentum(only=lambda name, p: name == "fc.weight"), t.LearningRate(lr=0.1))
    p = param(2)
    optimizer = recipe.optimizer([("module.fc.weight", p)])
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert "momentum/buffer" in optimizer.state[p]


def test_adapters_are_found_in_wrapped_models():
    names = ["_orig_mod.fc._fsdp_wrapped_module.lora_A.default._fsdp_wrapped_module.weight", "module.fc.lora_B.default.weight"]
    recipe = chain(t.LoRAPlus(loraplus_lr_ratio=2.0), t.LearningRate(lr=0.1))
    a, b = param(2, 4), param(3, 2)
    optimizer = recipe.optimizer(list(zip(names, (a, b), strict=True)))
    ((pair,),) = [found["pairs"] for found in optimizer.report().findings.values()]
    assert (pair["A"], pair["B"]) == tuple(names)


def test_a_rule_tells_what_it_looks_at():
    net = nn.Sequential(nn.Linear(2, 2))
    by_name = (hidden_matrices, rule("*.bias"), in_modules(net, nn.Linear), ~hidden_matrices, matrices & "*.w", matrices | "a")
    assert {one.looks_at for one in by_name} == {"names"}
    assert {one.looks_at for one in (matrices, ~matrices, biases_and_norms, matrices & biases_and_norms)} == {"shapes"}
    assert rule(lambda name, p: True).looks_at == (matrices & (lambda name, p: True)).looks_at == "unknown"
    assert masked(t.L2(), by=matrices).only.looks_at == "shapes"
