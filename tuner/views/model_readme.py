"""The README of an exported generator."""

from collections.abc import Mapping, Sequence

from tuner.epoch_report import MEASUREMENTS
from tuner.spec.branches import branch_at
from tuner.spec.metrics import ALL_OBJECTIVES, OBJECTIVES, objective_field
from tuner.spec.parameters import values_of
from tuner.spec.study import StudySpec
from tuner.study.confirmation import Result
from tuner.study.records import TrialRecord
from tuner.trial import Program
from tuner.views import confirmations
from tuner.views.formatting import number, value_text
from tuner.views.generator_warnings import trial_warnings

# How to use each format; ``run.model_export`` makes them.
_USE = {
    "flax": """\
### Flax

`generator.safetensors` contains the weights, `network.py` the network, and `draw.py` draws images.
It needs flax, in the version below or close to it, and pillow for a picture: `pip install flax
pillow`.

```bash
python draw.py --count 64 --seed 0 --out images.png
```

```python
from draw import draw
images = draw(16, seed=1{labels})  # uint8 {shape}
```

With the same seed, the images equal those of `tuner sample` up to rounding.
""",
    "jax-export": """\
### jax.export

`generator.jax_export` is one StableHLO program with the weights in it, for CPU, CUDA, ROCm and TPU.
It needs `pip install jax flatbuffers`. JAX promises that versions up to six months newer than the
one below can read it.

```python
import jax
from jax import export
generator = export.deserialize(bytearray(open("generator.jax_export", "rb").read()))
z = jax.random.normal(jax.random.key(0), (16, {latent}))
images = generator.call(z{given})  # float32, -1 to 1
```
""",
    "onnx": """\
### ONNX

`generator.onnx` is one ONNX model with the weights in it. It needs `pip install onnxruntime`.

```python
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession("generator.onnx")
z = np.random.default_rng(0).normal(size=(16, {latent})).astype(np.float32)
(images,) = session.run(["images"], {{"z": z{fed}}})  # float32, -1 to 1
```
""",
}
FORMATS = tuple(_USE)
# Fields of a program that are not always settings of the study file.
_DERIVED = (
    *("generator_optimizer", "discriminator_optimizer", "generator_norm", "discriminator_norm"),
    "classes",
)


def model_readme(
    spec: StudySpec,
    trial: TrialRecord,
    confirmed: Sequence[Result],
    program: Program,
    formats: Sequence[str],
    versions: Mapping[str, str],
) -> str:
    """The README as Markdown: origin, quality, use, training and versions."""
    parts = [
        f"# Generator of the study {spec.study.name}",
        f"The generator of trial {trial.number} of the study `{spec.study.name}`, exported by "
        "`tuner export-model`.",
        "![Samples](samples.png)",
        "## Quality",
        *_quality(spec, trial, confirmed),
        "## Draw images",
        *_interface(program),
        *(_use(name, program).rstrip() for name in FORMATS if name in formats),
        "## Training",
        _table(
            "setting",
            "value",
            {k: value_text(v) for k, v in _settings(spec, trial, program).items()},
        ),
        "## Versions and licence",
        ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        "tuner does not know the licence of the training images. Check it before you publish the "
        "weights or images drawn with them.",
    ]
    return "\n\n".join(parts) + "\n"


def _quality(spec: StudySpec, trial: TrialRecord, confirmed: Sequence[Result]) -> list[str]:
    metrics, metric = spec.metrics, OBJECTIVES[spec.metrics.objective]
    own = [result for result in confirmed if result.trial.number == trial.number]
    if value := confirmations.confirmed_value(own, spec):
        found = [
            f"Confirmed with fresh seeds: {value}.",
            f"The weights are those that trial {trial.number} had in the search.",
        ]
    else:
        found = [f"{metric} {number(trial.value)} in the search: one seed, not confirmed."]
    if trial.fresh is not None:
        found.append(f"On latents that were not used to choose it: {metric} {number(trial.fresh)}.")
    better = "Higher" if ALL_OBJECTIVES[metrics.objective].higher else "Lower"
    found.append(
        f"{metric} compares {metrics.samples:,} generated images with the training images, on the "
        f"features `{metrics.features}`. {better} is better. It is comparable only with values for "
        "the same features, images and number of samples."
    )
    epoch = trial.best_epoch(metrics.objective)
    report = next((report for report in trial.reports if report.epoch == epoch), None)
    warnings = trial_warnings(trial, metrics.objective)
    parts = [" ".join(found), *(f"**Warning: {text}.**" for text in warnings)]
    if report is not None:
        fields = *MEASUREMENTS, *map(objective_field, metrics.own)
        values = {field.label: report.value(field.name) for field in fields}
        shown = {name: number(value) for name, value in values.items() if value is not None}
        parts.append(_table(f"after epoch {report.epoch}", "value", shown))
    return parts


def _interface(program: Program) -> list[str]:
    height, width, channels = program.image_shape
    colour = {1: "grey", 3: "RGB"}.get(channels, f"{channels}-channel")
    lines = [
        f"- input: {program.latent_dim} standard normal numbers for each image; no truncation",
        f"- output: {colour} images of {height} x {width} pixels, (n, {height}, {width}, "
        f"{channels}), from -1 (black) to 1; `round((x + 1) * 127.5)`, clipped to 0 to 255, gives "
        "bytes",
    ]
    if program.classes:
        lines.append(
            f"- labels: a class from 0 to {program.classes - 1} for each image, int32, numbered as "
            "in the training data"
        )
    if program.ema:
        lines.append("- weights: a moving average over training")
    if program.generator_norm == "batch":
        lines.append(
            "- batch norm: with fixed statistics, measured for these weights on 512 latents; an "
            "image does not depend on the others in its batch"
        )
    return ["\n".join(lines)]


def _use(name: str, program: Program) -> str:
    conditional = bool(program.classes)
    return _USE[name].format(
        shape=(16, *program.image_shape),
        latent=program.latent_dim,
        labels=", labels=0" * conditional,
        given=', jax.numpy.zeros(16, "int32")' * conditional,
        fed=', "labels": np.zeros(16, np.int32)' * conditional,
    )


def _settings(spec: StudySpec, trial: TrialRecord, program: Program) -> dict[str, object]:
    """What was searched, then what the study file fixes, then what follows from both."""
    branch = branch_at(spec.trial, trial.params)
    fixed = dict(branch.trial.settings()) if branch else {}
    found = {k: v for k, v in fixed.items() if v is not None and values_of(v) == [v]}
    derived = {name: getattr(program, name) for name in _DERIVED}
    rest = {"epochs": spec.study.epochs} | found | derived
    return trial.params | {name: v for name, v in rest.items() if name not in trial.params}


def _table(name: str, value: str, rows: Mapping[str, str]) -> str:
    lines = [f"| {name} | {value} |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {key} | {shown} |" for key, shown in rows.items())])
