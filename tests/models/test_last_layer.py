"""The last layer computes its queries, output projection and MLP only at the positions whose output is needed."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, LlamaConfig, MixtralConfig

from explllm.models.last_layer import last_layer_at, last_layer_at_end

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("config", [LlamaConfig(**SIZES), MixtralConfig(**SIZES, num_local_experts=2)])
def test_same_logits_at_the_end(config):
    torch.manual_seed(0)
    language = AutoModelForCausalLM.from_config(config).eval()
    ids, rows = torch.randint(60, (3, 9)), []
    mlp = language.model.layers[-1].mlp
    inner = mlp.gate_proj if hasattr(mlp, "gate_proj") else mlp
    inner.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[1]))

    @torch.no_grad()
    def logits():
        return language(input_ids=ids, use_cache=False).logits

    expected = logits()
    with last_layer_at_end(language, 2), ThreadPoolExecutor(1) as other:
        found = logits()
        assert torch.equal(other.submit(logits).result(), expected)
    torch.testing.assert_close(found[:, -2:], expected[:, -2:], atol=1e-6, rtol=0)
    assert torch.equal(logits(), expected)
    dense = isinstance(config, LlamaConfig)
    assert torch.equal(found, expected) != dense
    assert rows == [9, 2 if dense else 9, 9, 9]


# Their last layers have convolutions over tokens: on the queries, and on the outputs of attention and MLP.
CONVOLUTIONAL = {
    "kimi_linear": {
        "layer_types": ["linear_attention"] * 2,
        "first_k_dense_replace": 2,
        "num_experts": 4,
        "linear_num_heads": 2,
        "linear_head_dim": 16,
        "pad_token_id": 0,
    },
    "inkling_text": {
        "mlp_layer_types": ["dense"] * 2,
        "head_dim": 16,
        "swa_num_attention_heads": 2,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 16,
        "num_mtp_layers": 0,
        "n_routed_experts": 4,
    },
}


@pytest.mark.parametrize("model_type", CONVOLUTIONAL)
@torch.no_grad()
def test_layers_with_convolutions_over_tokens(model_type):
    if model_type not in CONFIG_MAPPING:
        pytest.skip("a newer release of transformers has this model")
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SIZES, **CONVOLUTIONAL[model_type])
    language = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for weight in language.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    ids, needed = torch.randint(1, 60, (3, 9)), torch.rand(3, 9) < 0.3
    expected = language.base_model(input_ids=ids, use_cache=False).last_hidden_state
    with last_layer_at(language, needed):
        found = language.base_model(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(found[needed], expected[needed], atol=1e-5, rtol=0)


def test_no_position_is_needed():
    """Nothing is skipped, because some layers cannot process zero tokens."""
    language, rows = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)), []
    language.model.layers[-1].mlp.register_forward_hook(lambda _, inputs, output: rows.append(output.shape[1]))
    with last_layer_at(language, torch.zeros(3, 9, dtype=torch.bool)):
        language(input_ids=torch.randint(60, (3, 9)), use_cache=False).logits.sum().backward()
    assert rows == [9]
    assert all(weight.grad is not None for weight in language.parameters())
