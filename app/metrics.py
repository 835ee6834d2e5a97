"""What this process counts and measures, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

MEDIA_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """One set of them, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._answered: dict[str, tuple[Counter, Counter, Histogram]] = {}
        self.predictions = Counter(
            "graft_predictions",
            "Requests for predictions, by model and by what became of them: `ok` or the code of the problem.",
            ["model", "outcome"],
            registry=self._registry,
        )
        self.images = Counter("graft_predicted_images", "Images answered.", ["model"], registry=self._registry)
        self.seconds = Histogram(
            "graft_prediction_seconds",
            "From a request's last byte to its answer, of those that were answered.",
            ["model"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.loads = Counter(
            "graft_model_loads",
            "Model versions loaded, by runtime and precision, and those that failed.",
            ["form"],
            registry=self._registry,
        )
        self.fallbacks = Counter(
            "graft_runtime_fallbacks",
            "Times that a form of a model version did not load or failed in a pass, so that the next one was taken.",
            ["form"],
            registry=self._registry,
        )
        self.unreadable = Counter(
            "graft_unreadable_optimisations",
            "Times that the files of an optimisation were not as they were written, so that none of them was used.",
            registry=self._registry,
        )
        self.queued = Gauge("graft_queued_images", "Images that wait.", registry=self._registry)
        self.loaded = Gauge("graft_loaded_models", "Model versions in memory.", registry=self._registry)
        self.memory = Gauge(
            "graft_loaded_models_bytes", "What they take of the budget, about.", registry=self._registry
        )

    def answered(self, model: str, *, images: int, seconds: float) -> None:
        """Count a request that was answered."""
        told = self._answered.get(model)
        if told is None:  # to look them up by their labels takes longer than to count
            told = self.predictions.labels(model, "ok"), self.images.labels(model), self.seconds.labels(model)
            self._answered[model] = told
        told[0].inc()
        told[1].inc(images)
        told[2].observe(seconds)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)
