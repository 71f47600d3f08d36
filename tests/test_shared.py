"""What tests share is determined by what its key holds: nothing is handed out for something else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.onnx_graph.graphs import run
from tests.shared import fingerprint, once, shared_export, shared_trace


class Net(nn.Module):
    def __init__(self, seed: int, offset: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(3, 2)
        self.register_buffer("offset", torch.tensor(offset))
        self.slope = 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(self.linear(x) + self.offset, self.slope)


INPUTS = (torch.arange(6.0).reshape(2, 3),)


class Counted:
    def __init__(self, export: Any) -> None:
        self.export, self.calls = export, 0

    def __call__(self, *given: Any, **settings: Any) -> Any:
        self.calls += 1
        return self.export(*given, **settings)


def changed() -> list[nn.Module]:
    """Nets that differ from the first in weights, a buffer, a number of their own, and a layer."""
    nets = [Net(0), Net(1), Net(0, 1.0), Net(0), Net(0)]
    nets[3].slope = 0.25
    nets[4].linear = nn.Sequential(nets[4].linear, nn.Tanh())
    return nets


def test_an_export_is_of_that_net_and_made_once(tmp_path: Path) -> None:
    export = Counted(torch.onnx.export)
    shared = shared_export(export, tmp_path)
    for _ in range(2):
        for net in changed():
            program = shared(net, INPUTS, input_names=["x"], dynamo=True, verbose=False)
            np.testing.assert_allclose(run(program.model_proto, x=INPUTS[0].numpy())[0], net(*INPUTS).detach(), 1e-5)
    assert export.calls == len(changed())
    shared(Net(0), INPUTS, input_names=["y"], dynamo=True, verbose=False)
    shared(Net(0), (INPUTS[0][:1],), input_names=["x"], dynamo=True, verbose=False)
    assert export.calls == len(changed()) + 2


def test_a_trace_has_the_weights_of_the_net_that_was_asked_for() -> None:
    export = Counted(torch.export.export)
    shared = shared_trace(export)
    for net in changed():
        graph = shared(net, INPUTS).module()
        assert torch.equal(graph(*INPUTS), net(*INPUTS))
        assert all(a is b for a, b in zip(graph.parameters(), net.parameters(), strict=True)), "they can be trained"
        again = shared(graph, INPUTS).module()  # of a traced graph, too
        assert torch.equal(again(*INPUTS), net(*INPUTS))
    assert export.calls == 2 * (len(changed()) - 1), "of two that differ in weights alone there is one"


def test_tied_weights_are_not_untied() -> None:
    def net() -> Any:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))

    apart, tied = net(), net()
    tied[1].weight = tied[0].weight
    shared = shared_trace(torch.export.export)
    for one in (apart, tied):
        assert torch.equal(shared(one, INPUTS).module()(*INPUTS), one(*INPUTS))


def test_what_has_no_name_is_not_shared(tmp_path: Path) -> None:
    class Local(Net):
        pass

    assert fingerprint(Local(0)) is None and fingerprint(lambda: 0) is None
    export = Counted(torch.export.export)
    for _ in range(2):
        shared_trace(export)(Local(0), INPUTS)
    assert export.calls == 2


def test_a_file_is_made_once_and_whole(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        once(tmp_path, "key", fail)
    assert once(tmp_path, "key", lambda path: path.write_text("whole")).read_text() == "whole"
    assert once(tmp_path, "key", fail).read_text() == "whole"
