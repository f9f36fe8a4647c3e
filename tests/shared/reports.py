"""Runs for the report, as folders or as records, and a reader of its page."""

import json
from html.parser import HTMLParser

from runner.report.results.collect import METRICS


def write_run(folder, status="done", swept=None, epochs=3, **fields):
    """A run's folder; `fields` go into result.json."""
    folder.mkdir(parents=True)
    result = {"run": folder.name, "status": status, "reason": None, "swept": swept or {}, "overrides": []}
    result |= dict.fromkeys(METRICS) | {"epochs": epochs, "seconds": 1.5} | fields
    (folder / "result.json").write_text(json.dumps(result))
    lines = ["epoch,step,train_loss,train_accuracy,val_loss,val_accuracy,lr,seconds"]
    lines += [f"{e},{e * 10},{1 / e},0.5,{2 / e},{1 - 0.5 / e},0.1,0.5" for e in range(1, epochs + 1)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


def sweep(folder, accuracies):
    """`accuracies`: {optimizer: [validation accuracy of each seed]}"""
    for optimizer, values in accuracies.items():
        for seed, value in enumerate(values):
            write_run(
                folder / f"optimizer={optimizer},seed={seed}",
                swept={"optimizer": optimizer, "seed": seed},
                val_accuracy=value,
                val_loss=1 - value,
                test_accuracy=value - 0.01,
            )
    return folder


class Page(HTMLParser):
    """Open elements balance; what the page loads from elsewhere, its ids and its visible text are kept."""

    void = {"meta", "br", "link", "img", "input", "hr"}

    def __init__(self, text):
        super().__init__()
        self.stack, self.loads, self.ids, self.text = [], [], [], []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in self.void:
            self.stack.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        places = [attributes.get(name) for name in ("src", "href", "xlink:href", "data", "action")]
        self.loads += [place for place in places if place and not place.startswith("#")]

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())
