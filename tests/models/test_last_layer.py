"""The MLP of the last layer runs at the positions whose output is read."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

from explllm.models.last_layer import last_layer_at_end

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
