"""Rules for the dashboard's actions on tuner's studies: allowed, or refused with a reason.

The dashboard knows only Optuna's tables. Renaming a study would lose its epochs, deleting it would
leave its files behind, and a trial's value is only set by its worker. Studies of other programs in
the same database are not restricted.
"""

import json
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import optuna_dashboard
from bottle import Bottle, HTTPError, HTTPResponse, Route, request

from tuner.errors import InputError
from tuner.files.pictures import ATTRIBUTE, picture_of
from tuner.study.database import Database
from tuner.study.unfenced_storage import TrialLocation, UnfencedStorage

PAGE, SCRIPT_PATH = "/dashboard<:re:(/.*)?>", "/tuner.js"
REFUSED = "X-Tuner-Refused"
# The dashboard reports some failures without a reason; this script shows the reason.
SCRIPT = """\
(() => {
  const show = (reason) => {
    const box = document.createElement("div");
    box.setAttribute("role", "alert");
    box.style.cssText = "position:fixed;z-index:9999;top:12px;left:12px;right:12px;padding:12px;" +
      "background:#b3261e;color:#fff;font:16px sans-serif;border-radius:6px;cursor:pointer";
    box.textContent = reason;
    box.onclick = () => box.remove();
    document.body.append(box);
  };
  const ask = window.fetch;
  window.fetch = async (...words) => {
    const answer = await ask(...words);
    if (answer.headers.get("X-Tuner-Refused")) show((await answer.clone().json()).reason);
    return answer;
  };
})();
"""
# Content-Security-Policy of files, which may be untrusted uploads: nothing in them runs.
INERT = "sandbox; default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'"


class Target(NamedTuple):
    """The object of an action, in a study made by tuner."""

    study: str
    trial: TrialLocation | None
    artifact: str | None
    attached: bool  # whether the study or trial refers to the artifact


Body = dict[str, Any]
Rule = Callable[[Target, Body], str | None]  # the reason for a refusal


def _allowed(target: Target, body: Body) -> str | None:
    return None


def _refused(reason: str) -> Rule:
    return lambda target, body: f"study {target.study!r} {reason}"


def _tell(target: Target, body: Body) -> str | None:
    if (reason := _ended(target)) is None and str(body.get("state")).upper() == "COMPLETE":
        return "only a trial's worker sets its value; Fail ends the trial without one"
    return reason


def _attributes(target: Target, body: Body) -> str | None:
    given = body.get("user_attrs")
    if not isinstance(given, dict):
        return "user_attrs: expected an object"
    if any(name.startswith("tuner:") for name in given):
        return "names that begin with 'tuner:' are reserved for tuner"
    return _ended(target)


def _ended(target: Target, body: Body | None = None) -> str | None:
    trial = target.trial
    if trial is None or not trial.state.is_finished():
        return None
    return f"trial {trial.number} has ended as {trial.state.name} and can't be changed"


def _remove_file(target: Target, body: Body) -> str | None:
    if target.artifact is not None and picture_of(target.artifact) is not None:
        return "tuner made this picture; tuner delete removes it with its study"
    if not target.attached:
        return f"there is no artifact {target.artifact} here"
    return _ended(target)


STUDY, TRIAL = "/api/studies/<study_id:int>", "/api/trials/<trial_id:int>"
FILES, FILE = "/api/artifacts/<study_id:int>", "<artifact_id:re:[0-9a-fA-F-]+>"
NOT_PREFERENTIAL = _refused("is not preferential: its trials are compared by their values")
# Every known action with side effects; others, from newer dashboards, are refused.
RULES: dict[tuple[str, str], Rule | str] = {
    ("POST", "/api/studies"): _allowed,
    ("POST", f"{STUDY}/rename"): _refused(
        "can't be renamed: the dashboard would rename a copy without its epochs and files, and "
        "delete the original"
    ),
    ("DELETE", STUDY): _refused("has files that the dashboard does not delete: use tuner delete"),
    ("PUT", f"{STUDY}/note"): _allowed,
    ("PUT", f"{STUDY}/<trial_id:int>/note"): _allowed,
    ("POST", f"{STUDY}/preference"): NOT_PREFERENTIAL,
    ("PUT", f"{STUDY}/preference_feedback_component"): NOT_PREFERENTIAL,
    ("DELETE", f"{STUDY}/preference/<history_id>"): NOT_PREFERENTIAL,
    ("POST", f"{STUDY}/preference/<history_id>"): NOT_PREFERENTIAL,
    ("POST", f"{STUDY}/<trial_id:int>/skip"): NOT_PREFERENTIAL,
    ("POST", f"{TRIAL}/tell"): _tell,
    ("POST", f"{TRIAL}/user-attrs"): _attributes,
    ("POST", f"{FILES}/<trial_id:int>"): _ended,
    ("POST", FILES): _allowed,
    ("DELETE", f"{FILES}/<trial_id:int>/{FILE}"): _remove_file,
    ("DELETE", f"{FILES}/{FILE}"): _remove_file,
    (
        "POST",
        "/incompatible-rdb-schema",
    ): "the database also has tuner's tables: use tuner db upgrade",
    ("POST", "/api/llm/trial_filter_query"): _allowed,
    ("POST", "/api/llm/generate_plotly_graph_query"): _allowed,
    ("POST", "/api/llm/re_generate_plotly_graph_query"): _allowed,
}


def install(application: Bottle, database: Database, storage: UnfencedStorage) -> None:
    """Apply the rules to the dashboard's ``application`` on ``storage``."""
    headers = {"Content-Type": "text/javascript"}
    application.get(SCRIPT_PATH, callback=lambda: HTTPResponse(SCRIPT, headers=headers))
    application.install(_Rules(database, storage))


class _Rules:
    """A Bottle plugin, which sees the routes that Bottle matched."""

    name, api = "tuner", 2

    def __init__(self, database: Database, storage: UnfencedStorage) -> None:
        self._database, self._storage = database, storage

    def apply(self, callback: Callable[..., Any], route: Route) -> Callable[..., Any]:
        if route.method != "GET":
            unknown = f"tuner does not allow the dashboard: {route.method} {route.rule}"
            rule = RULES.get((route.method, route.rule), unknown)
            return partial(self._act, callback, rule)
        if route.rule == PAGE:
            return partial(_page, callback)
        return partial(_inert, callback) if route.rule.startswith("/artifacts/") else callback

    def _act(self, callback: Callable[..., Any], rule: Rule | str, **arguments: Any) -> Any:
        if isinstance(rule, str):
            return _refusal(403, rule)
        try:
            body = request.json if request.content_length > 0 else {}
        except HTTPError:
            body = None
        if not isinstance(body, dict):
            return _refusal(400, "expected a JSON object, with its Content-Type")
        try:
            target = self._target(**arguments)
        except InputError as error:
            return _refusal(404, str(error))
        reason = None if target is None else rule(target, body)
        return callback(**arguments) if reason is None else _refusal(403, reason)

    def _target(
        self,
        study_id: int | None = None,
        trial_id: int | None = None,
        artifact_id: str | None = None,
        **_: Any,
    ) -> Target | None:
        """The target; None if the action concerns no study, or one that tuner did not make.

        InputError if the study or the trial does not exist.
        """
        trial = None
        with self._database.errors():
            if trial_id is not None:
                trial = self._storage.locate_trial(trial_id)
                if trial is None or study_id not in (None, trial.study_id):
                    raise InputError(f"there is no trial with ID {trial_id}")
                study_id = trial.study_id
            if study_id is None:
                return None
            try:
                study = self._storage.get_study_name_from_id(study_id)
            except KeyError:
                raise InputError(f"there is no study with ID {study_id}") from None
            attributes = (
                self._storage.get_study_system_attrs(study_id)
                if trial_id is None
                else self._storage.get_trial_system_attrs(trial_id)
            )
        if study not in self._database.study_names():
            return None
        attached = attributes.get(f"{ATTRIBUTE}{artifact_id}", "null") != "null"
        return Target(study, trial, artifact_id, attached)


def _refusal(status: int, reason: str) -> HTTPResponse:
    headers = {"Content-Type": "application/json", REFUSED: "1"}
    return HTTPResponse(json.dumps({"reason": reason}), status, headers)


def _page(callback: Callable[..., Any], **arguments: Any) -> HTTPResponse:
    """The page with the script that shows reasons; other sites can't frame it."""
    with closing(callback(**arguments)) as served:
        policy = served.get_header("Content-Security-Policy", "default-src 'self'")
    text = Path(optuna_dashboard.__file__).with_name("index.html").read_text()
    text = text.replace("<head>", f'<head><script src="{SCRIPT_PATH}"></script>', 1)
    headers = {
        "Content-Type": "text/html; charset=UTF-8",
        "Content-Security-Policy": f"{policy};frame-ancestors 'self'",
    }
    return HTTPResponse(text, headers=headers)


def _inert(callback: Callable[..., Any], **arguments: Any) -> Any:
    """A file, possibly an untrusted upload, with headers that keep it from running code."""
    found = callback(**arguments)
    if isinstance(found, HTTPResponse):
        found.set_header("Content-Security-Policy", INERT)
        found.set_header("X-Content-Type-Options", "nosniff")
    return found
