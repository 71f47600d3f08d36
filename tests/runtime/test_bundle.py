"""A bundle draws what the PyTorch model draws, and says plainly what is wrong with a folder or an input."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from compress.errors import BundleError
from compress.files import sha256
from compress.measure.bench import callable_for
from compress.model.denoiser import draw, guided, predict
from compress.runtime import Bundle
from compress.runtime.engines import ONNXRUNTIME
from compress.runtime.manifest import read_manifest
from tests.conftest import assert_close_db, inputs_for, read_json

KINDS = ["class", "text", "unconditional"]


def arrays(conditions: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in conditions.items()}


def assert_draws_alike(model, bundle: Bundle, batch: int, least: float = 80) -> None:
    noise, _, conditions = inputs_for(model, batch)
    expected = draw(model, noise, conditions).numpy()
    found = bundle.sample(noise.numpy(), **arrays(conditions))
    assert found.shape == expected.shape and found.dtype == np.float32
    assert_close_db(expected, found, least)


@pytest.fixture(scope="module")
def class_bundle(exported) -> Bundle:
    return Bundle(exported("class")[1], threads=1)


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    """A bundle folder that the test may damage."""
    return Path(shutil.copytree(exported("text")[1], tmp_path / "bundle"))


def edit(folder: Path, change) -> None:
    manifest = read_json(folder / "bundle.json")
    change(manifest)
    (folder / "bundle.json").write_text(json.dumps(manifest))


def assert_refused(path: Path, *said: str, **options) -> None:
    with pytest.raises(BundleError) as caught:
        Bundle(path, threads=1, **options)
    message = str(caught.value)
    assert str(path) in message and "Traceback" not in message
    for words in said:
        assert words in message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_bundle_draws_what_pytorch_draws(exported, kind, batch):
    model, path = exported(kind)
    assert_draws_alike(model, Bundle(path, threads=1), batch)


def test_any_batch_size_includes_a_large_one(exported):
    model, path = exported("class")
    assert_draws_alike(model, Bundle(path, threads=1), 40)


@pytest.mark.parametrize("kind", KINDS)
def test_one_guided_evaluation_equals_pytorch(exported, kind):
    model, path = exported(kind)
    noise, _, conditions = inputs_for(model)
    when = torch.full((len(noise),), 321)
    bundle = Bundle(path, threads=1)
    found = bundle.guided(noise.numpy(), 321, arrays(conditions))
    assert_close_db(guided(model, noise, when, conditions).numpy(), found, 80)
    found = bundle.denoise(noise.numpy(), 321, arrays(conditions))
    assert_close_db(predict(model, noise, when, conditions).numpy(), found, 80)


def test_guidance_is_the_formula_over_two_evaluations(class_bundle):
    noise = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    conditional = class_bundle.denoise(noise, 500, {"class_labels": np.array([3, 4])})
    unconditional = class_bundle.denoise(noise, 500, {"class_labels": np.array([10, 10])})
    found = class_bundle.guided(noise, 500, {"class_labels": np.array([3, 4])})
    assert_close_db(unconditional + 2.0 * (conditional - unconditional), found, 80)


def test_samples_are_independent_of_each_other(class_bundle):
    noise = np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
    labels = np.arange(4)
    together = class_bundle.sample(noise, class_labels=labels)
    alone = np.concatenate([class_bundle.sample(noise[i : i + 1], class_labels=labels[i : i + 1]) for i in range(4)])
    assert_close_db(together, alone, 80)


def test_label_changes_the_sample(class_bundle):
    noise = np.ones((1, 1, 8, 8), np.float32)
    one, two = (class_bundle.sample(noise, class_labels=np.array([label])) for label in (1, 2))
    assert np.abs(one - two).max() > 1e-3


def test_float64_noise_and_int32_labels_are_accepted(class_bundle):
    noise = np.random.default_rng(0).standard_normal((2, 1, 8, 8))
    found = class_bundle.sample(noise, class_labels=np.array([1, 2], np.int32))
    expected = class_bundle.sample(noise.astype(np.float32), class_labels=np.array([1, 2]))
    assert found.dtype == np.float32 and np.array_equal(found, expected)


def test_noise_is_left_alone(class_bundle):
    noise = np.ones((1, 1, 8, 8), np.float32)
    class_bundle.sample(noise, class_labels=np.array([1]))
    assert (noise == 1).all()


def test_bundle_knows_its_size_and_shapes(exported):
    _, path = exported("text")
    bundle = Bundle(path, threads=1)
    assert bundle.size_bytes == sum(
        file.stat().st_size for file in path.iterdir() if file.name not in ("bundle.json", "sample.py")
    )
    assert bundle.sample_shape == (4, 8, 8) and bundle.batch is None and len(bundle.steps) == 4


@pytest.mark.parametrize("count", [4, 8])
def test_fixed_batch_draws_what_pytorch_draws(exported, count):
    model, path = exported("class", batch=4)
    assert_draws_alike(model, Bundle(path, threads=1), count)


def test_fixed_batch_refuses_another_size_and_names_the_users(exported):
    model, path = exported("class", batch=4)
    noise, _, conditions = inputs_for(model, 3)
    with pytest.raises(BundleError, match=r"batches of 4; got 3 samples"):
        Bundle(path, threads=1).sample(noise.numpy(), **arrays(conditions))


@pytest.mark.parametrize(("kind", "batch"), [("class", None), ("class", 4), ("text", None)])
def test_a_file_for_its_own_timesteps_draws_the_same_and_answers_at_no_other(exported, kind, batch):
    model, path = exported(kind, batch=batch)
    _, own = exported(kind, batch=batch, timesteps="own")
    before, after = Bundle(path, threads=1), Bundle(own, threads=1)
    assert after.timesteps == sorted(model.sampling.timesteps) and before.timesteps is None
    assert after.size_bytes < before.size_bytes
    assert_draws_alike(model, after, 4, 80)
    sample, _, conditions = inputs_for(model, 4)
    for timestep in (500, np.array([249, 499, 749, 1])):
        before.denoise(sample.numpy(), timestep, arrays(conditions))
        with pytest.raises(BundleError, match=r"own timesteps alone; .* others than 249, 499, 749, 999"):
            after.denoise(sample.numpy(), timestep, arrays(conditions))
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="out of data bounds"):
        after.graph.run({"sample": sample.numpy(), "timestep": np.full(4, 500), **arrays(conditions)})
    callable_for(own, 1, 4)()  # the benchmark of latency asks at a timestep that is known
    with pytest.raises(BundleError, match=r"denoiser.onnx: .* give the bundle's folder"):
        callable_for(own / "denoiser.onnx", 1, 4)


def test_unguided_evaluation_of_another_size_is_refused(exported):
    _, path = exported("class", batch=4)
    with pytest.raises(BundleError, match=r"batches of 4; got 6 samples"):
        Bundle(path, threads=1).denoise(np.zeros((6, 1, 8, 8), np.float32), 5, {"class_labels": np.zeros(6, np.int64)})


def test_external_weights_draw_alike_and_are_checked(exported, tmp_path):
    model, path = exported("class")
    graph = onnx.load(path / "denoiser.onnx")
    onnx.save(graph, tmp_path / "denoiser.onnx", save_as_external_data=True, location="weights.bin")
    names = ("denoiser.onnx", "weights.bin")
    files = {name: {"sha256": sha256(tmp_path / name), "bytes": (tmp_path / name).stat().st_size} for name in names}
    manifest = {**read_json(path / "bundle.json"), "files": files}
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    assert_draws_alike(model, Bundle(tmp_path, threads=1), 2)
    (tmp_path / "weights.bin").unlink()
    assert_refused(tmp_path, "weights.bin", "is missing")


def test_folder_without_manifest_is_refused(tmp_path):
    assert_refused(tmp_path, "no bundle.json here")


def test_folder_that_does_not_exist_is_refused(tmp_path):
    assert_refused(tmp_path / "nowhere", "no bundle.json here")


def test_file_instead_of_folder_is_refused(folder):
    assert_refused(folder / "denoiser.onnx")


@pytest.mark.parametrize("name", ["denoiser.onnx", "null_embeddings.npy"])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert_refused(folder, name, "is missing")


@pytest.mark.parametrize("name", ["denoiser.onnx", "null_embeddings.npy"])
def test_renamed_file_is_named(folder, name):
    (folder / name).rename(folder / f"renamed-{name}")
    assert_refused(folder, f"/{name}", "is missing")


@pytest.mark.parametrize("name", ["denoiser.onnx", "null_embeddings.npy"])
def test_one_changed_bit_is_found(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert_refused(folder, name, "SHA-256")


def test_truncated_file_is_found(folder):
    file = folder / "denoiser.onnx"
    file.write_bytes(file.read_bytes()[:-100])
    assert_refused(folder, "denoiser.onnx", "SHA-256")


def test_broken_graph_is_refused_even_without_hashes(folder):
    (folder / "denoiser.onnx").write_bytes(b"no graph")
    assert_refused(folder, "denoiser.onnx", "onnxruntime cannot open it", check_hashes=False)


def test_missing_null_embedding_is_refused_even_without_hashes(folder):
    (folder / "null_embeddings.npy").unlink()
    assert_refused(folder, "null_embeddings.npy", check_hashes=False)


def test_unchanged_copy_is_accepted(folder, exported):
    model, _ = exported("text")
    assert_draws_alike(model, Bundle(folder, threads=1), 1)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"7", b'{"name": 1}', b"\xff\xfe", b'"format"'])
def test_damaged_manifest_is_refused(folder, content):
    (folder / "bundle.json").write_bytes(content)
    assert_refused(folder, "bundle.json", "is damaged")


@pytest.mark.parametrize("key", ["format", "model", "batch", "inputs", "sampling", "files"])
def test_manifest_without_a_needed_entry_is_refused(folder, key):
    edit(folder, lambda manifest: manifest.pop(key))
    assert_refused(folder, "bundle.json", "is damaged")


@pytest.mark.parametrize("key", ["steps", "clip_range", "guidance"])
def test_manifest_without_a_needed_sampling_entry_is_refused(folder, key):
    edit(folder, lambda manifest: manifest["sampling"].pop(key))
    assert_refused(folder, "bundle.json", "is damaged")


def test_manifest_with_a_broken_step_is_refused(folder):
    edit(folder, lambda manifest: manifest["sampling"]["steps"][0].pop("timestep"))
    assert_refused(folder, "bundle.json", "is damaged")


def test_newer_format_is_refused(folder):
    edit(folder, lambda manifest: manifest.update(format=2))
    assert_refused(folder, "format 2; this version reads format 1")


def test_manifest_is_read_as_written(folder):
    assert read_manifest(folder) == read_json(folder / "bundle.json")


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (2, 3, 8, 8), (2, 1, 8, 9), (2, 1, 8, 8, 1)])
def test_noise_of_wrong_shape_is_refused(class_bundle, shape):
    with pytest.raises(BundleError, match="noise must be"):
        class_bundle.sample(np.zeros(shape, np.float32), class_labels=np.zeros(shape[0], np.int64))


def test_no_samples_at_all_are_refused(class_bundle):
    with pytest.raises(BundleError):
        class_bundle.sample(np.zeros((0, 1, 8, 8), np.float32), class_labels=np.zeros(0, np.int64))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1)])
def test_labels_of_wrong_shape_are_refused(class_bundle, shape):
    with pytest.raises(BundleError, match=r"class_labels must be \[2\]"):
        class_bundle.sample(np.zeros((2, 1, 8, 8), np.float32), class_labels=np.zeros(shape, np.int64))


@pytest.mark.parametrize("shape", [(1, 5, 12), (2, 4, 12), (2, 5, 13), (2, 60)])
def test_embeddings_of_wrong_shape_are_refused(exported, shape):
    _, path = exported("text")
    with pytest.raises(BundleError, match=r"encoder_hidden_states must be \[2, 5, 12\]"):
        Bundle(path, threads=1).sample(
            np.zeros((2, 4, 8, 8), np.float32), encoder_hidden_states=np.zeros(shape, np.float32)
        )


@pytest.mark.parametrize("labels", [[0, -1], [0, 10], [999, 0]])
def test_labels_out_of_range_are_refused(class_bundle, labels):
    with pytest.raises(BundleError, match="class labels must lie in 0…9"):
        class_bundle.sample(np.zeros((2, 1, 8, 8), np.float32), class_labels=np.array(labels))


def test_first_and_last_label_are_accepted(class_bundle):
    found = class_bundle.sample(np.zeros((2, 1, 8, 8), np.float32), class_labels=np.array([0, 9]))
    assert np.isfinite(found).all()


def test_missing_condition_is_refused(class_bundle):
    with pytest.raises(BundleError, match=r"takes the conditions \['class_labels'\]; got none"):
        class_bundle.sample(np.zeros((2, 1, 8, 8), np.float32))


def test_unknown_condition_is_refused(class_bundle):
    with pytest.raises(BundleError, match=r"got \['class_labels', 'prompt'\]"):
        class_bundle.sample(np.zeros((2, 1, 8, 8), np.float32), class_labels=np.zeros(2, np.int64), prompt=np.zeros(2))


def test_condition_for_an_unconditional_model_is_refused(exported):
    _, path = exported("unconditional")
    with pytest.raises(BundleError, match="takes the conditions none"):
        Bundle(path, threads=1).sample(np.zeros((2, 1, 8, 8), np.float32), class_labels=np.zeros(2, np.int64))


def test_int8_convolutions_keep_their_transposes_and_their_output() -> None:
    path = Path(__file__).parents[2] / "exported" / "digits-edge" / "onnx"
    key = "optimization.disable_specified_optimizers"
    assert ONNXRUNTIME.options(1, "int8").get_session_config_entry(key) == "NhwcTransformer"
    with pytest.raises(RuntimeError):  # float bundles are left to onnxruntime
        ONNXRUNTIME.options(1, "float").get_session_config_entry(key)
    bundle = Bundle(path, threads=1)
    sample = np.random.default_rng(0).normal(size=(1, *bundle.sample_shape)).astype(np.float32)
    feeds = {"sample": sample, "timestep": np.array([500]), "class_labels": np.array([3])}
    plain = ONNXRUNTIME.open(path / "denoiser.onnx", threads=1)
    np.testing.assert_array_equal(bundle.graph.run(feeds)[0], plain.run(feeds)[0])


def test_size_is_that_of_one_way_of_running(folder):
    """Step by step or the sampler in one graph: each holds all weights, and a device needs one of them."""
    sizes = {"denoiser.onnx": 10, "weights.bin": 1000, "null_embeddings.npy": 5}
    bundle = Bundle(folder, threads=1)
    for sampler, own, size in (
        (None, {}, 1015),
        ("sampler.onnx", {"sampler.onnx": 30, "sampler.bin": 1000}, 1030),
        ("sampler.onnx", {"sampler.onnx": 900}, 1015),
    ):
        files = {name: {"sha256": "", "bytes": count} for name, count in {**sizes, **own}.items()}
        bundle.manifest = {**bundle.manifest, "sampler": sampler, "files": files}
        assert bundle.size_bytes == size
