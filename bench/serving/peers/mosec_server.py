"""mosec: `python -m bench.serving.peers.mosec_server --port PORT`; it reads its own options from the command line."""

import mosec
import numpy as np
import torch
from numpy.typing import NDArray

from bench.serving.peers import task
from bench.serving.peers.classifier import Answer, Classifier

Pixels = NDArray[np.float32]


class Whole(mosec.Worker):
    """From the bytes of a photo to its labels."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = Classifier(task.given())

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes | list[bytes]) -> Answer | list[Answer]:
        if isinstance(data, list):
            return self.classifier.answers([self.classifier.decoded(photo) for photo in data])
        return self.classifier.answer(data)


class Decoding(mosec.Worker):
    """From the bytes of a photo to what the network sees."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = Classifier(task.given())

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> Pixels:
        pixels: Pixels = self.classifier.decoded(data).numpy()
        return pixels


class Naming(mosec.Worker):
    """From what the network sees to labels."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = Classifier(task.given())

    def forward(self, data: Pixels | list[Pixels]) -> Answer | list[Answer]:
        if isinstance(data, list):
            return self.classifier.answers([torch.from_numpy(pixels) for pixels in data])
        return self.classifier.answers([torch.from_numpy(data)])[0]


def _serve() -> None:
    layout = task.given().layout
    server = mosec.Server()
    if layout.decoders:
        server.append_worker(Decoding, num=layout.decoders)
    server.append_worker(
        Naming if layout.decoders else Whole,
        num=layout.processes,
        max_batch_size=layout.batch,
        max_wait_time=layout.wait_ms,
    )
    server.run()


if __name__ == "__main__":
    _serve()
