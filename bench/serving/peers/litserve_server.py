"""LitServe: `python -m bench.serving.peers.litserve_server`."""

import litserve
from fastapi import UploadFile
from torch import Tensor

from bench.serving.peers import task
from bench.serving.peers.classifier import Answer, Classifier


class Api(litserve.LitAPI):
    """One photo in a form."""

    def setup(self, device: str) -> None:
        """Called in each process that runs the network."""
        self.classifier = Classifier(task.given())

    def decode_request(self, request: UploadFile) -> Tensor:
        return self.classifier.decoded(request.file.read())

    def predict(self, images: Tensor) -> Answer | list[Answer]:
        """Of one image `(3, H, W)`, or of a batch `(N, 3, H, W)` where there are batches."""
        if images.ndim == 3:
            return self.classifier.answers([images])[0]
        return self.classifier.answers(list(images))

    def encode_response(self, output: Answer) -> Answer:
        return output


if __name__ == "__main__":
    wanted = task.given()
    layout = wanted.layout
    server = litserve.LitServer(
        Api(max_batch_size=layout.batch, batch_timeout=layout.wait_ms / 1000),
        accelerator="cpu",
        devices=1,
        workers_per_device=layout.processes,
        fast_queue=layout.variant == task.FAST_QUEUE,
        timeout=False,
    )
    server.run(host="127.0.0.1", port=wanted.port, num_api_servers=1, log_level="warning", generate_client_file=False)
