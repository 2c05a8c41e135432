"""When the networks of an update are recorded, and what recording leaves as it was. torch's recorder is replaced."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from barm.engine.graphs import MODE, GraphedNetwork, _others_go_on
from barm.engine.runtime import unwrap


class Network(nn.Module):
    """Batch norm and dropout, whose passes leave traces."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)

    def forward(self, image: Tensor) -> Tensor:
        return self.drop(self.norm(self.conv(image)))


@pytest.fixture
def recorder(monkeypatch):
    """Records by three passes, as torch does, and then runs the network itself; counts its calls."""
    calls: list[tuple[int, ...]] = []

    def record(network: nn.Module, sample: tuple[Tensor], **options: object) -> nn.Module:
        assert not torch.is_autocast_enabled("cuda")
        assert options == {"allow_unused_input": True, "pool": "pool"}
        assert torch.cuda.graph.keywords == MODE  # as this recorder takes no mode itself
        calls.append(tuple(sample[0].shape))
        for _ in range(3):
            network(sample[0])
        return network

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _device: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, _device: torch.set_rng_state(state))
    return calls


def test_recording_leaves_no_trace(recorder):
    network, image = Network(), torch.randn(2, 3, 8, 8)
    graphed = GraphedNetwork(network, None, "pool")
    for _ in range(2):
        torch.manual_seed(1)
        network.norm.reset_running_stats()
        expected = network(image)
        statistics = network.norm.running_mean.clone()
        torch.manual_seed(1)
        network.norm.reset_running_stats()
        assert torch.equal(graphed(image), expected)
        assert torch.equal(network.norm.running_mean, statistics)
        assert int(network.norm.num_batches_tracked) == 1
    assert recorder == [(2, 3, 8, 8)]


def test_another_shape_or_mode_is_recorded_anew(recorder):
    network, image = Network(), torch.randn(2, 3, 8, 8)
    graphed = GraphedNetwork(network, None, "pool")
    graphed(image)
    graphed(image[:1])
    network.norm.eval()
    graphed(image[:1])
    graphed(image[:1])
    assert recorder == [(2, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8)]


def test_evaluation_is_never_recorded(recorder):
    network, image = Network(), torch.randn(2, 3, 8, 8)
    graphed = GraphedNetwork(network, None, "pool")
    with torch.no_grad():
        graphed(image)
    network.eval()
    assert torch.equal(graphed(image), network(image))
    assert recorder == []


def test_a_network_that_cannot_be_recorded_runs_as_it_is(recorder, monkeypatch):
    def refuse(*_args: object, **_options: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    network, image = Network(), torch.randn(2, 3, 8, 8)
    graphed = GraphedNetwork(network, None, "pool")
    torch.manual_seed(1)
    expected = network(image)
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match=r"cannot be recorded \(operation not permitted .*\), it runs as it is"):
        assert torch.equal(graphed(image), expected)


def test_want_of_memory_is_no_reason_to_go_on(recorder, monkeypatch):
    def fill(*_args: object, **_options: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fill)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        GraphedNetwork(Network(), None, "pool")(torch.randn(2, 3, 8, 8))


def test_what_was_recorded_is_let_go(recorder):
    network, image = Network(), torch.randn(2, 3, 8, 8)
    graphed = GraphedNetwork(network, None, "pool")
    graphed(image)
    graphed.forget()
    assert graphed._run is network
    graphed(image)
    assert recorder == [(2, 3, 8, 8)] * 2


def test_other_threads_go_on(recorder, monkeypatch):
    """Newer releases of torch take the mode, older ones have it in the class that they record with."""
    graph = torch.cuda.graph
    with _others_go_on() as options:
        assert options == {}
        assert torch.cuda.graph.keywords == MODE
    assert torch.cuda.graph is graph
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda network, capture_error_mode: network)
    with _others_go_on() as options:
        assert options == MODE
        assert torch.cuda.graph is graph


def test_unwrapping():
    """Stored tensors have the network's own names."""
    network = Network()
    compiled = torch.compile(network)
    for inner in (network, compiled, GraphedNetwork(network, None, None), GraphedNetwork(compiled, None, None)):
        assert unwrap(SimpleNamespace(module=inner)) is network
