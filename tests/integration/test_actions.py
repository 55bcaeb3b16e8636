"""Every route of the dashboard works on a tuner study, or is refused and changes nothing."""

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pytest
import study_databases
from study_databases import Studies, claim, report, run

from tuner.dashboard.actions import RULES
from tuner.dashboard.server import make_application
from tuner.errors import InputError, LeaseLostError
from tuner.study import steering
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete

url, studies = study_databases.url, study_databases.studies

FILE = "data:text/plain;base64,aGVsbG8="
POINT: dict[str, float | int | str] = {"beta1": 0.5, "learning_rate": 1e-3}


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def reason(self) -> str:
        return str(json.loads(self.body)["reason"])


class Site:
    """The dashboard on a study with a complete, a running and a waiting trial."""

    def __init__(self, studies: Studies, folder: Path) -> None:
        self.store: StudyStore = studies.create(trials=5)
        self.store.record_artifacts(str(folder))
        self.session = studies.join()
        done = run(self.session, [9.0, 8.0], Complete())
        self.live = live = claim(self.session)
        report(self.session, live, [7.0])
        steering.enqueue(self.store, POINT, {})
        [*_, waiting] = [trial._trial_id for trial in studies.trials()]
        self.ids: dict[str, Any] = {
            "study": self.store.study_id,
            "done": done.trial_id,
            "live": live.trial_id,
        }
        self.ids |= {"waiting": waiting, "picture": f"{self.store.token[:8]}-00000-000001"}
        self.application = make_application(studies.open(), str(folder))

    def request(self, target: str, body: Any = None) -> Response:
        """Send ``METHOD PATH``; names in braces stand for ids of the site."""
        method, _, path = target.format(**self.ids).partition(" ")
        path, _, query = path.partition("?")
        data = b"" if body is None else json.dumps(body).encode()
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "here",
            "SERVER_PORT": "80",
            "HTTP_ACCEPT_ENCODING": "",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(data)),
            "wsgi.input": io.BytesIO(data),
            "wsgi.errors": io.StringIO(),
            "wsgi.url_scheme": "http",
        }
        started: list[Any] = []
        chunks = self.application(environ, lambda *head: started.append(head))
        content = b"".join(chunks)
        if hasattr(chunks, "close"):
            chunks.close()
        [(status, headers, *_)] = started
        return Response(int(status[:3]), dict(headers), content)


@pytest.fixture
def site(studies: Studies, tmp_path: Path) -> Site:
    return Site(studies, tmp_path)


STUDY, TRIAL, FILES = "/api/studies/<study_id:int>", "/api/trials/<trial_id:int>", "/api/artifacts"
UUID = "<artifact_id:re:[0-9a-fA-F-]+>"

# For each route: requests with their bodies, the status, and text in the response.
REQUESTS: dict[str, list[tuple[str, Any, int, str]]] = {
    "GET /": [("GET /", None, 302, "")],
    "GET /dashboard<:re:(/.*)?>": [
        ("GET /dashboard", None, 200, '<script src="/tuner.js">'),
        ("GET /dashboard/studies/{study}", None, 200, '<script src="/tuner.js">'),
    ],
    "GET /tuner.js": [("GET /tuner.js", None, 200, "X-Tuner-Refused")],
    "GET /api/meta": [("GET /api/meta", None, 200, "artifact_is_available")],
    "GET /api/studies": [("GET /api/studies", None, 200, '"study_name": "s"')],
    "POST /api/studies": [
        ("POST /api/studies", {"study_name": "t", "directions": ["minimize"]}, 201, '"t"'),
        ("POST /api/studies", {"study_name": "s", "directions": ["minimize"]}, 400, "exists"),
        ("POST /api/studies", ["s"], 400, "expected a JSON object"),
    ],
    f"POST {STUDY}/rename": [
        ("POST /api/studies/{study}/rename", {"study_name": "t"}, 403, "'s' can't be renamed"),
        ("POST /api/studies/{study}/rename/", {"study_name": "t"}, 403, "'s' can't be renamed"),
        ("POST /api/studies/99/rename", {"study_name": "t"}, 404, "no study with ID 99"),
    ],
    f"DELETE {STUDY}": [
        ("DELETE /api/studies/{study}", None, 403, "use tuner delete"),
        ("DELETE /api/studies/{study}", {"remove_associated_artifacts": True}, 403, "tuner delete"),
    ],
    f"GET {STUDY}": [("GET /api/studies/{study}", None, 200, '"trials"')],
    f"GET {STUDY}/param_importances": [
        ("GET /api/studies/{study}/param_importances", None, 200, "param_importances")
    ],
    f"GET {STUDY}/plot/<plot_type>": [
        (f"GET /api/studies/{{study}}/plot/{kind}", None, 200, '"layout"')
        for kind in ("contour", "slice", "parallel_coordinate", "rank", "edf", "timeline")
    ],
    f"PUT {STUDY}/note": [("PUT /api/studies/{study}/note", {"version": 1, "body": "x"}, 204, "")],
    f"PUT {STUDY}/<trial_id:int>/note": [
        ("PUT /api/studies/{study}/{done}/note", {"version": 1, "body": "x"}, 204, ""),
        ("PUT /api/studies/{study}/{live}/note", {"version": 7, "body": "x"}, 409, "has changed"),
        ("PUT /api/studies/99/{live}/note", {"version": 1, "body": "x"}, 404, "no trial with"),
    ],
    f"POST {STUDY}/preference": [
        (
            "POST /api/studies/{study}/preference",
            {"mode": "ChooseWorst", "candidates": [0, 1], "clicked": 1},
            403,
            "is not preferential",
        )
    ],
    f"PUT {STUDY}/preference_feedback_component": [
        (
            "PUT /api/studies/{study}/preference_feedback_component",
            {"output_type": "note"},
            403,
            "is not preferential",
        )
    ],
    f"DELETE {STUDY}/preference/<history_id>": [
        ("DELETE /api/studies/{study}/preference/x", None, 403, "is not preferential")
    ],
    f"POST {STUDY}/preference/<history_id>": [
        ("POST /api/studies/{study}/preference/x", None, 403, "is not preferential")
    ],
    f"POST {STUDY}/<trial_id:int>/skip": [
        ("POST /api/studies/{study}/{live}/skip", None, 403, "is not preferential")
    ],
    f"POST {TRIAL}/tell": [
        (
            "POST /api/trials/{live}/tell",
            {"state": "Complete", "values": [0.0]},
            403,
            "sets its value",
        ),
        (
            "POST /api/trials/{waiting}/tell",
            {"state": "Complete", "values": [0]},
            403,
            "sets its value",
        ),
        ("POST /api/trials/{done}/tell", {"state": "Fail"}, 403, "trial 0 has ended as COMPLETE"),
        ("POST /api/trials/99/tell", {"state": "Fail"}, 404, "no trial with ID 99"),
    ],
    f"POST {TRIAL}/user-attrs": [
        ("POST /api/trials/{live}/user-attrs", {"user_attrs": {"mine": 1}}, 204, ""),
        ("POST /api/trials/{live}/user-attrs", {"user_attrs": {"tuner:reason": 1}}, 403, "tuner:"),
        ("POST /api/trials/{done}/user-attrs", {"user_attrs": {"mine": 1}}, 403, "has ended"),
        ("POST /api/trials/{live}/user-attrs", {"user_attrs": [1]}, 403, "expected an object"),
    ],
    "GET /csv/<study_id:int>": [("GET /csv/{study}", None, 200, "Param learning_rate")],
    "GET /favicon.ico": [("GET /favicon.ico", None, 200, "")],
    "GET /static/<filename:path>": [
        ("GET /static/bundle.js", None, 200, ""),
        ("GET /static/../index.html", None, 403, ""),
    ],
    "GET /incompatible-rdb-schema": [("GET /incompatible-rdb-schema", None, 302, "")],
    "POST /incompatible-rdb-schema": [
        ("POST /incompatible-rdb-schema", None, 403, "use tuner db upgrade")
    ],
    f"GET /artifacts/<study_id:int>/{UUID}": [("GET /artifacts/{study}/abc", None, 404, "")],
    f"GET /artifacts/<study_id:int>/<trial_id:int>/{UUID}": [
        ("GET /artifacts/{study}/{done}/abc", None, 404, "")
    ],
    f"POST {FILES}/<study_id:int>/<trial_id:int>": [
        (
            "POST /api/artifacts/{study}/{live}",
            {"file": FILE, "filename": "a.txt"},
            201,
            "artifact_id",
        ),
        ("POST /api/artifacts/{study}/{done}", {"file": FILE}, 403, "has ended"),
        ("POST /api/artifacts/{study}/99", {"file": FILE}, 404, "no trial with ID 99"),
    ],
    f"POST {FILES}/<study_id:int>": [
        ("POST /api/artifacts/{study}", {"file": FILE, "filename": "a.txt"}, 201, "artifact_id"),
        ("POST /api/artifacts/99", {"file": FILE}, 404, "no study with ID 99"),
    ],
    f"DELETE {FILES}/<study_id:int>/<trial_id:int>/{UUID}": [
        ("DELETE /api/artifacts/{study}/{done}/{picture}", None, 403, "tuner made this picture"),
        ("DELETE /api/artifacts/{study}/{live}/abc", None, 403, "no artifact abc here"),
    ],
    f"DELETE {FILES}/<study_id:int>/{UUID}": [
        ("DELETE /api/artifacts/{study}/{picture}", None, 403, "tuner made this picture"),
        ("DELETE /api/artifacts/{study}/abc", None, 403, "no artifact abc here"),
    ],
    **{
        f"POST /api/llm/{query}": [(f"POST /api/llm/{query}", {}, 400, "No access to the LLM")]
        for query in (
            "trial_filter_query",
            "generate_plotly_graph_query",
            "re_generate_plotly_graph_query",
        )
    },
}


def test_every_route_is_tested(site: Site) -> None:
    """The routes of a newer dashboard must be added to ``RULES`` and ``REQUESTS``."""
    routes = {f"{route.method} {route.rule}" for route in site.application.routes}
    assert routes == set(REQUESTS)
    changing = {route for route in routes if not route.startswith("GET ")}
    assert {" ".join(rule) for rule in RULES} == changing


def test_each_action_works_or_is_refused_without_changes(site: Site, studies: Studies) -> None:
    for route, requests in REQUESTS.items():
        for target, body, status, text in requests:
            before = studies.all_rows(), studies.rows("SELECT study_name FROM studies")
            response = site.request(target, body)
            assert (response.status, text.encode() in response.body) == (status, True), (
                target,
                response,
            )
            if status >= 400 or target.startswith("GET"):
                after = studies.all_rows(), studies.rows("SELECT study_name FROM studies")
                assert after == before, target
            if status >= 400 and not route.startswith("GET"):
                assert "internal" not in response.reason, target


def test_a_running_or_waiting_trial_can_be_failed(site: Site, studies: Studies) -> None:
    for name in ("live", "waiting"):
        response = site.request(f"POST /api/trials/{{{name}}}/tell", {"state": "Fail"})
        assert response.status == 204, response
    assert [trial.state.name for trial in studies.trials()] == ["COMPLETE", "FAIL", "FAIL"]
    with pytest.raises(LeaseLostError, match="another process has ended the trial"):
        site.session.finish(site.live, Complete())
    assert claim(site.session).number == 3


def test_an_unknown_action_is_refused(site: Site) -> None:
    site.application.post("/api/studies/<study_id:int>/shred", callback=lambda study_id: "done")
    response = site.request("POST /api/studies/{study}/shred")
    assert response.status == 403
    assert response.reason == (
        "tuner does not allow the dashboard: POST /api/studies/<study_id:int>/shred"
    )


def test_studies_of_other_programs_are_left_to_the_dashboard(site: Site, studies: Studies) -> None:
    theirs = site.request("POST /api/studies", {"study_name": "t", "directions": ["minimize"]})
    number = json.loads(theirs.body)["study_summary"]["study_id"]
    renamed = site.request(f"POST /api/studies/{number}/rename", {"study_name": "u"})
    assert renamed.status == 201, renamed
    number = json.loads(renamed.body)["study_id"]
    assert site.request(f"DELETE /api/studies/{number}").status == 204
    assert studies.rows("SELECT study_name FROM studies") == [("s",)]


def test_user_artifacts_can_be_removed_while_the_trial_runs(site: Site) -> None:
    for place in ("{study}", "{study}/{live}"):
        added = site.request(f"POST /api/artifacts/{place}", {"file": FILE, "filename": "a.html"})
        name = json.loads(added.body)["artifact_id"]
        found = site.request(f"GET /artifacts/{place}/{name}")
        assert (found.status, found.body) == (200, b"hello")
        # Scripts in a file do not run when it is opened as a page.
        assert found.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
        assert found.headers["X-Content-Type-Options"] == "nosniff"
        assert site.request(f"DELETE /api/artifacts/{place}/{name}").status == 204
        again = site.request(f"DELETE /api/artifacts/{place}/{name}")
        assert (again.status, again.reason) == (403, f"there is no artifact {name} here")


def test_other_sites_can_not_frame_the_page(site: Site) -> None:
    policy = site.request("GET /dashboard").headers["Content-Security-Policy"]
    assert "frame-ancestors 'self'" in policy
    assert "script-src 'self'" in policy


def test_deleting_an_optuna_copy_keeps_the_pictures(
    site: Site, studies: Studies, tmp_path: Path
) -> None:
    """Optuna copies the artifact names along with the trials."""
    picture = f"{site.store.folder}/pictures/trial-00000/samples-epoch-000001.png"
    (tmp_path / picture).parent.mkdir(parents=True)
    (tmp_path / picture).write_bytes(b"png")
    study = studies.optuna_study()
    meta = {"artifact_id": site.ids["picture"], "filename": "1.png", "mimetype": "image/png"}
    key = f"artifacts:{site.ids['picture']}"
    study._storage.set_study_system_attr(
        study._study_id, key, json.dumps(meta | {"encoding": None})
    )
    optuna.copy_study(
        from_study_name="s",
        from_storage=studies.optuna_storage,
        to_storage=studies.optuna_storage,
        to_study_name="copy",
    )
    with pytest.raises(InputError, match="'copy' was made, copied or renamed by a program other"):
        studies.store("copy")
    number = studies.optuna_study("copy")._study_id
    assert site.request(f"DELETE /api/studies/{number}").status == 204
    assert studies.rows("SELECT study_name FROM studies") == [("s",)]
    assert (tmp_path / picture).read_bytes() == b"png"
