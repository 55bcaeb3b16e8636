"""``tuner noise``: seed noise of a study."""

from tuner import hints
from tuner.cli.app import Task, command, out, print_json
from tuner.cli.options import AsJson, Storage, StudyName, open_study
from tuner.environment import STORAGE
from tuner.study.seed_noise import seed_noise
from tuner.views import confirmations


@command(Task.RESULTS)
def noise(name: StudyName, storage: Storage = STORAGE, as_json: AsJson = False) -> None:
    """Show how much of the spread between trials is due to their seeds.

    Estimated from trials with the same parameters, such as the runs of a confirmation; without
    them, an upper bound from the most similar trials.

    Example: tuner noise quickstart
    """
    store = open_study(storage, name)
    found = seed_noise(store.spec, [*store.trials(), *store.confirmation_trials()])
    if as_json:
        print_json(found._asdict())
        return
    for line in confirmations.noise_lines(found, store.spec):
        out.print(line, soft_wrap=True)
    if found.deviation is None:
        again = hints.command("confirm", name)
        out.print(f"To measure it: {again}", soft_wrap=True)
