"""Reading profile bundles: where they are found, what is read, and what a user is told when something is wrong."""

import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.latency.tables.bundle import find_bundle, op_sequence, read_bundle
from tests.data import data_path

LAYERS = ("embedding", "layernorm", "qkv_proj", "rotary_emb", "o_proj", "gate_up_proj", "act_fn", "down_proj", "final_layernorm")


@pytest.fixture
def root(tmp_path):
    """A profile of one device and two models; the second has experts and two degrees of tensor parallelism."""
    for model, degrees in (("org/Tiny-1B", (1,)), ("org/Tiny-MoE", (1, 2))):
        variant = tmp_path / "RTX9000" / model / "bf16"
        moe = "MoE" in model
        for degree in degrees:
            write(variant / f"tp{degree}", moe, degree)
        (variant / "meta.yaml").write_text("measurement_iterations: 2\n")
    return tmp_path


def write(folder, moe, degree):
    folder.mkdir(parents=True)
    layers = [*LAYERS[:5], "qk_norm", LAYERS[8]] if moe else LAYERS
    rows = [f"{layer},{tokens},{tokens * (i + 1) / degree}" for i, layer in enumerate(layers) for tokens in (8, 1)]
    (folder / "dense.csv").write_text("\n".join(["layer,tokens,time_us", *rows]) + "\n")
    (folder / "per_sequence.csv").write_text("layer,sequences,time_us\nlm_head,1,10\nlm_head,4,12\nsampler,1,2\nsampler,4,3\n")
    attention = ["prefill_chunk,kv_prefill,n_decode,kv_decode,time_us", "0,0,1,16,5.5", "16,0,0,0,7", "16,32,1,16,9"]
    (folder / "attention.csv").write_text("\n".join(attention) + "\n")
    skew = (
        "regime,n,nb,ratio,skew,pc,kp,kvs,kv_big,kv_mean,t_mean_us,t_max_us,t_skew_us,alpha\npure,4,1,0.25,4,0,0,100,400,175,20,40,24,0.2\n"
    )
    (folder / "skew.csv").write_text(skew)
    if moe and degree == 1:
        (folder / "moe.csv").write_text("tokens,activated_experts,time_us\n1,2,50\n8,2,60\n8,4,90\n")


def test_what_is_read(root):
    bundle = read_bundle(root / "RTX9000" / "org" / "Tiny-1B" / "bf16" / "tp1")
    np.testing.assert_array_equal(bundle.dense["layernorm"].size, [1, 8])
    np.testing.assert_allclose(bundle.dense["layernorm"].seconds, [2e-6, 16e-6])
    np.testing.assert_allclose(bundle.per_sequence["sampler"].seconds, [2e-6, 3e-6])
    np.testing.assert_array_equal(np.stack(bundle.attention)[:4].T, [[0, 0, 1, 16], [16, 0, 0, 0], [16, 32, 1, 16]])
    np.testing.assert_allclose(bundle.attention.seconds, [5.5e-6, 7e-6, 9e-6])
    assert bundle.moe is None
    assert bundle.skew is not None
    # the file has sums over measurement_iterations = 2 runs
    assert [x.item() for x in bundle.skew] == pytest.approx([4, 1, 0, 0, 100, 400, 10e-6, 20e-6, 12e-6])


def test_the_operators_follow_from_the_layers(root):
    dense = op_sequence(read_bundle(root / "RTX9000" / "org" / "Tiny-1B" / "bf16" / "tp1"))
    assert dense.prologue == ("embedding",) and dense.head == ("final_layernorm",) and dense.per_sequence == ("lm_head", "sampler")
    assert dense.layer == ("layernorm", "qkv_proj", "rotary_emb", "attention", "o_proj", "layernorm", "gate_up_proj", "act_fn", "down_proj")
    experts = op_sequence(read_bundle(root / "RTX9000" / "org" / "Tiny-MoE" / "bf16" / "tp2"))
    assert experts.layer == ("layernorm", "qkv_proj", "qk_norm", "rotary_emb", "attention", "o_proj", "layernorm", "moe")


def test_what_only_tp1_has_serves_every_degree(root):
    folder = root / "RTX9000" / "org" / "Tiny-MoE" / "bf16" / "tp2"
    lines = (folder / "dense.csv").read_text().splitlines()
    (folder / "dense.csv").write_text("\n".join(line for line in lines if not line.startswith("layernorm")))
    bundle = read_bundle(folder)
    np.testing.assert_allclose(bundle.dense["layernorm"].seconds, [2e-6, 16e-6])
    np.testing.assert_allclose(bundle.dense["qkv_proj"].seconds, [1.5e-6, 12e-6])
    assert bundle.moe is not None and bundle.moe.activated.tolist() == [2, 2, 4]


@pytest.mark.parametrize("device", ["RTX9000", "rtx-9000", ("something else", "RTX 9000")])
@pytest.mark.parametrize("model", ["org/Tiny-1B", "tiny-1b", "another/Tiny-1B"])
def test_a_bundle_is_found_under_other_names(root, device, model):
    assert find_bundle(root, device, model, "bf16", 1) == root / "RTX9000" / "org" / "Tiny-1B" / "bf16" / "tp1"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (("RTX9001", "Tiny-1B", "bf16", 1), r"no profile of device 'RTX9001' \(did you mean RTX9000\?\)"),
        (("RTX9000", "Tiny-2B", "bf16", 1), r"RTX9000: no profile of model 'Tiny-2B' \(did you mean org/Tiny-1B"),
        (("RTX9000", "Tiny-1B", "fp8", 1), r"Tiny-1B: no profile of variant 'fp8' \(known: bf16\)"),
        (("RTX9000", "Tiny-MoE", "bf16", 8), r"tensor_parallel_size 8 was not profiled \(profiled: 1, 2\)"),
    ],
)
def test_a_missing_bundle_says_what_exists(root, wanted, message):
    with pytest.raises(SimjaxError, match=message):
        find_bundle(root, *wanted)


def test_a_missing_root_is_said(tmp_path):
    with pytest.raises(SimjaxError, match=r"nowhere: no profile of device 'A' \(there is none\)"):
        find_bundle(tmp_path / "nowhere", "A", "b", "bf16", 1)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "dense.csv",
            "layer,tokens,time_us\nembedding,1,2.0\n\nembedding,2,soon\n",
            r"dense\.csv:4: time_us must be a positive number, found 'soon'",
        ),
        ("dense.csv", "layer,tokens,time_us\nembedding,-1,2.0\n", r"dense\.csv:2: tokens must be a non-negative number, found '-1'"),
        ("dense.csv", "layer,tokens\nembedding,1\n", r"dense\.csv:1: column 'time_us' is missing"),
        ("attention.csv", "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n", r"attention\.csv: no rows"),
        ("attention.csv", "", r"attention\.csv: not a CSV table"),
        ("attention.csv", "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,1,16,nan\n", r"attention\.csv:2: time_us must be"),
        ("../meta.yaml", "a: [", r"meta\.yaml: not YAML"),
        ("../meta.yaml", "- 1\n", r"meta\.yaml: expected a mapping"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(root, file, text, message):
    folder = root / "RTX9000" / "org" / "Tiny-1B" / "bf16" / "tp1"
    (folder / file).write_text(text)
    with pytest.raises(SimjaxError, match=message):
        read_bundle(folder)


def test_a_missing_file_is_named(root):
    folder = root / "RTX9000" / "org" / "Tiny-1B" / "bf16" / "tp1"
    (folder / "per_sequence.csv").unlink()
    with pytest.raises(SimjaxError, match=r"per_sequence\.csv: file not found"):
        read_bundle(folder)
    with pytest.raises(SimjaxError, match="not a tpN folder"):
        read_bundle(folder.parent)


def test_unknown_and_missing_layers_are_named(root):
    folder = root / "RTX9000" / "org" / "Tiny-1B" / "bf16" / "tp1"
    good = (folder / "dense.csv").read_text()
    (folder / "dense.csv").write_text(good.replace("qkv_proj", "qkv_prj"))
    with pytest.raises(SimjaxError, match=r"unknown layer 'qkv_prj' \(did you mean qkv_proj"):
        op_sequence(read_bundle(folder))
    (folder / "dense.csv").write_text("\n".join(line for line in good.splitlines() if not line.startswith("o_proj")))
    with pytest.raises(SimjaxError, match=r"dense\.csv: layer 'o_proj' is missing"):
        op_sequence(read_bundle(folder))


def test_a_shipped_bundle():
    profiles = data_path("llmservingsim/profiles")
    bundle = read_bundle(find_bundle(profiles, "rtx pro 6000", "Qwen3-30B-A3B-Instruct-2507", "bf16", 2))
    assert len(bundle.attention.seconds) == 19_364 and len(bundle.dense) == 7 and bundle.tensor_parallel_size == 2
    assert len(bundle.dense["qkv_proj"].size) == 152
    assert bundle.moe is not None and len(bundle.moe.tokens) == 50
    assert bundle.skew is not None and len(bundle.skew.decodes) == 13_009
    # both files time the same batch, 64 decodes of 4096 tokens: one as a mean, the other as a sum of three runs
    same = (bundle.skew.chunk == 0) & (bundle.skew.decodes == 64) & (bundle.skew.longest == 4096)
    a = bundle.attention
    once = a.seconds[(a.chunk == 0) & (a.decodes == 64) & (a.decode_kv == 4096)].item()
    assert bundle.skew.longest_s[same][0] == pytest.approx(once, rel=0.02)
