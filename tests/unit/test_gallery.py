"""The studies of benchmarks/gallery.py."""

from gallery import cells, spec_for

from tuner.spec.traits import LOSSES, NETWORKS


def test_every_network_and_loss_has_a_valid_study() -> None:
    trials = [spec_for(cell).trial for cell in cells(slow=True)]
    assert {trial.generator for trial in trials} == set(NETWORKS)
    assert {trial.discriminator for trial in trials} == set(NETWORKS)
    assert {trial.loss for trial in trials} == set(LOSSES)
