"""Work on all cores is the work of one."""

import threading

import numpy as np
import pytest

from compress.judge import images, probe
from compress.measure import workers
from compress.model.denoiser import Denoiser
from compress.model.reference import Drawn, silent
from compress.passes import export_onnx
from compress.runtime import Bundle
from tests.conftest import dataset_for, make_context


@pytest.mark.parametrize(("cores", "threads", "at_once"), [(1, 1, 1), (2, 1, 2), (4, 2, 2), (2, 3, 1), (4, None, 1)])
def test_parts_keep_their_order_on_the_cores_there_are(
    cores: int, threads: int | None, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "default_threads", lambda: cores)
    together = threading.Barrier(at_once)

    def work(part: int) -> int:
        together.wait(20)  # breaks unless as many parts run at once
        return part * part

    assert list(workers.parallel(work, range(8), threads)) == [i * i for i in range(8)]


def test_a_fault_of_one_part_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "default_threads", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        list(workers.parallel(lambda part: 1 // part, range(3, -100, -1)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Denoiser, Bundle]:
    from tests.conftest import CLASS_CONFIG, make_denoiser

    model = make_denoiser(CLASS_CONFIG)
    folder = tmp_path_factory.mktemp("bundle")
    bundle = export_onnx.run(model, export_onnx.Config(batch=1), make_context(model, folder)).model
    return model, Bundle(bundle.path, threads=1)


def test_samples_and_answers_are_the_same_on_one_core_and_on_two(
    exported: tuple[Denoiser, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, bundle = exported
    batch = dataset_for(model, 9)
    drawn = Drawn(batch.images, dict(batch.conditions), batch.images)
    frozen = probe.make(model, drawn, model.sampling.timesteps, 0)
    found = []
    for cores in (1, 2):
        monkeypatch.setattr(workers, "default_threads", lambda cores=cores: cores)
        said = probe.answer(frozen, probe.of_bundle(bundle), bundle.threads)
        found.append((images.sample(bundle, drawn, silent, ""), said.guided))
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)
