"""Writes a llama of random weights with a byte-level tokenizer; run by the Python that has the package gguf.

It writes nonsense, but a real server loads it: with real tokens, limits, seeds, stops and a real end of its context.
"""

import sys

import numpy as np
from gguf import GGUFWriter, TokenType

WIDTH, LAYERS, HEADS, INNER, CONTEXT = 64, 2, 4, 128, 4_096


def byte_letters() -> list[str]:
    """The letters by which byte-level vocabularies write the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in plain}
    others = (byte for byte in range(256) if byte not in letters)
    letters.update({byte: chr(256 + i) for i, byte in enumerate(others)})
    return [letters[byte] for byte in range(256)]


def main(path: str) -> None:
    rng = np.random.default_rng(0)
    letters = byte_letters()
    merges = ["t h", "i n", "e r"]
    tokens = [*letters, *(merge.replace(" ", "") for merge in merges), "<|end|>"]
    out = GGUFWriter(path, "llama")
    out.add_context_length(CONTEXT)
    out.add_embedding_length(WIDTH)
    out.add_block_count(LAYERS)
    out.add_feed_forward_length(INNER)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(WIDTH // HEADS)
    out.add_vocab_size(len(tokens))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("default")
    out.add_token_list(tokens)
    out.add_token_types([TokenType.NORMAL] * (len(tokens) - 1) + [TokenType.CONTROL])
    out.add_token_merges(merges)
    out.add_bos_token_id(len(tokens) - 1)
    out.add_eos_token_id(len(tokens) - 1)
    out.add_add_bos_token(False)
    out.add_chat_template("{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}[assistant]")

    def tensor(name: str, *shape: int) -> None:
        out.add_tensor(name, rng.normal(0, 0.3, shape).astype(np.float32))

    tensor("token_embd.weight", len(tokens), WIDTH)
    for i in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            out.add_tensor(f"blk.{i}.{norm}.weight", np.ones(WIDTH, np.float32))
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{i}.{part}.weight", WIDTH, WIDTH)
        tensor(f"blk.{i}.ffn_gate.weight", INNER, WIDTH)
        tensor(f"blk.{i}.ffn_up.weight", INNER, WIDTH)
        tensor(f"blk.{i}.ffn_down.weight", WIDTH, INNER)
    out.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    tensor("output.weight", len(tokens), WIDTH)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


main(sys.argv[1])
