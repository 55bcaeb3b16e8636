"""TensorBoard: event files with scalars, hyperparameters and sample grids, a folder per trial.

A worker that continues a trial writes a separate file, which TensorBoard reads after the earlier
ones. The contents of those are not written again.
"""

import os
import platform
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX import summary
from tensorboardX.proto.api_pb2 import Status
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.record_writer import RecordWriter, masked_crc32c

from tuner.environment import tensorboard_folder
from tuner.paths import open_file
from tuner.tracking.runs import Epoch, TrackedTrial

PREFIX = "events.out.tfevents."  # by which TensorBoard recognises the files
SAMPLES, OUTCOME = "samples", "outcome"  # tags
MARK = "images"  # a scalar that every epoch has
_START, _END = "_hparams_/session_start_info", "_hparams_/session_end_info"
_STATUS = {"COMPLETE": "STATUS_SUCCESS", "PRUNED": "STATUS_SUCCESS", "FAIL": "STATUS_FAILURE"}


def begin(trial: TrackedTrial, root: Path | None = None) -> "TensorBoardRun":
    """Continue the event files in the trial's folder below ``root``."""
    return TensorBoardRun(trial, (root or tensorboard_folder()) / trial.folder / trial.name)


class TensorBoardRun:
    """A ``Run`` as event files in a folder."""

    def __init__(self, trial: TrackedTrial, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        earlier = sorted(path.name for path in folder.iterdir() if path.name.startswith(PREFIX))
        self.last_epoch: int | None = 0
        self._pictures: set[int] = set()
        self._tags: set[str] = set()
        for name in earlier:
            for event in read_events(folder / name):
                self._remember(event)
        self._path = folder / _name_after(earlier)
        self._writer: RecordWriter | None = None
        if _START not in self._tags:
            _, start, _ = summary.hparams(_plain(trial.hyperparameters), {})
            self._write(time.time(), 0, start)

    def _remember(self, event: Any) -> None:
        """Note what the event contains."""
        for value in event.summary.value:
            self._tags.add(value.tag)
            if value.tag == MARK:
                self.last_epoch = max(self.last_epoch or 0, event.step)
            elif value.tag == SAMPLES:
                self._pictures.add(event.step)

    def epochs(self, epochs: Sequence[Epoch]) -> None:
        for epoch in epochs:
            self._write(epoch.at, epoch.report.epoch, _scalars(epoch.measured), flush=False)
        self._flush()

    def picture(self, epoch: int, png: bytes) -> None:
        if epoch not in self._pictures:
            self._pictures.add(epoch)
            width, height, _, colour = struct.unpack(">IIBB", png[16:26])  # PNG's header
            image = Summary.Image(
                encoded_image_string=png,
                width=width,
                height=height,
                colorspace=1 if colour == 0 else 3,
            )
            self._write(
                time.time(), epoch, Summary(value=[Summary.Value(tag=SAMPLES, image=image)])
            )

    def end(self, state: str, reason: str | None, values: Mapping[str, float]) -> None:
        if _END not in self._tags:
            now = time.time()
            text = f"{state}: {reason}" if reason else state
            self._write(now, self.last_epoch or 0, summary.text(OUTCOME, text))
            if values:
                self._write(now, self.last_epoch or 0, _scalars(values))
            info = SessionEndInfo(status=Status.Value(_STATUS[state]), end_time_secs=now)
            content = HParamsPluginData(session_end_info=info).SerializeToString()
            plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=content)
            value = Summary.Value(tag=_END, metadata=SummaryMetadata(plugin_data=plugin))
            self._write(now, 0, Summary(value=[value]))
        self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, at: float, step: int, content: Any, *, flush: bool = True) -> None:
        if self._writer is None:
            self._writer = RecordWriter(str(self._path))
            self._writer.write(
                Event(wall_time=at, file_version="brain.Event:2").SerializeToString()
            )
        event = Event(wall_time=at, step=step, summary=content)
        self._writer.write(event.SerializeToString())
        self._remember(event)
        if flush:
            self._flush()

    def _flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()


def _name_after(earlier: Sequence[str]) -> str:
    """A file name that sorts after earlier ones, whatever the clocks of their machines said:
    TensorBoard reads files in this order."""
    latest = earlier[-1].removeprefix(PREFIX)[:10] if earlier else ""
    second = max(int(time.time()), int(latest) + 1 if latest.isdecimal() else 0)
    return f"{PREFIX}{second:010d}.{platform.node() or 'unknown'}.{os.getpid()}"


def _scalars(numbers: Mapping[str, float]) -> Any:
    return Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in numbers.items()])


def _plain(params: dict[str, Any]) -> dict[str, Any]:
    """Values of the types that TensorBoard knows."""
    return {k: v if isinstance(v, bool | int | float) else str(v) for k, v in params.items()}


def read_events(path: Path) -> Iterator[Any]:
    """The events in a file, up to the first record that is damaged or incomplete, as after a
    crash."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        while len(header := file.read(12)) == 12:
            length, checksum = struct.unpack("<QI", header)
            if checksum != masked_crc32c(header[:8]) or file.tell() + length + 4 > size:
                return
            data = file.read(length)
            (checksum,) = struct.unpack("<I", file.read(4))
            if checksum != masked_crc32c(data):
                return
            yield Event.FromString(data)
