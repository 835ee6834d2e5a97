"""A classifier as a tutorial serves it: Pillow, torchvision's transforms, torchvision's network. All peers use this
one, so that what differs between them is the server."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models, transforms

from bench.serving.peers.task import Task

TOP = 5

Answer = dict[str, Any]


class Classifier:
    """Decodes photos, and names them."""

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(task.layout.threads)
        path = Path(task.classifier)
        facts = json.loads(path.read_text(encoding="utf-8"))
        self._labels: list[str] = facts["labels"]
        self._dtype = torch.bfloat16 if task.forward.endswith("bf16") else torch.float32
        self._forward = _forward(task.forward, _network(facts, path), task.layout.batch)
        self._transform = transforms.Compose(
            [
                transforms.Resize(facts["resize"]),
                transforms.CenterCrop(facts["crop"]),
                transforms.ToTensor(),
                transforms.Normalize(facts["mean"], facts["std"]),
            ]
        )
        self._warm_up(task.layout.batch, facts["crop"])

    def decoded(self, photo: bytes) -> Tensor:
        """`(3, H, W) float32`."""
        image: Tensor = self._transform(Image.open(io.BytesIO(photo)).convert("RGB"))
        return image

    def answers(self, images: list[Tensor]) -> list[Answer]:
        """For each image its most probable labels."""
        batch = torch.stack(images).to(self._dtype, memory_format=torch.channels_last)
        with torch.inference_mode():
            probabilities = self._forward(batch).float().softmax(dim=1)
        values, indices = probabilities.topk(min(TOP, len(self._labels)), dim=1)
        return [self._answer(*row) for row in zip(values.tolist(), indices.tolist(), strict=True)]

    def answer(self, photo: bytes) -> Answer:
        """The answer for one photo."""
        return self.answers([self.decoded(photo)])[0]

    def _answer(self, values: list[float], indices: list[int]) -> Answer:
        pairs = zip(indices, values, strict=True)
        labels = [{"label": self._labels[index], "probability": value} for index, value in pairs]
        return {"predictions": [{"labels": labels}]}

    def _warm_up(self, batch: int, size: int) -> None:
        for count in {1, 2, batch} if batch > 1 else {1}:
            self.answers([torch.zeros(3, size, size)] * count)


def _network(facts: dict[str, Any], described: Path) -> nn.Module:
    made: nn.Module = models.get_model(facts["network"], num_classes=len(facts["labels"]))
    made.load_state_dict(torch.load(described.parent / facts["state"], weights_only=True))
    return made.eval()


def _forward(name: str, network: nn.Module, batch: int) -> Callable[[Tensor], Tensor]:
    if name == "eager":
        return network
    network = network.to(memory_format=torch.channels_last)
    if name.endswith("bf16"):
        network = network.to(torch.bfloat16)
    if name.startswith("compiled"):
        compiled: Callable[[Tensor], Tensor] = torch.compile(network, dynamic=batch > 1)
        return compiled
    return network
