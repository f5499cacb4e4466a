from itertools import pairwise

import pytest

from app.domain.jobs import TERMINAL, TRANSITIONS, IllegalTransition, JobStatus, check_transition, sources


class TestCheckTransition:
    def test_accepts_the_path_of_a_job_that_succeeds(self) -> None:
        path = [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.SUCCEEDED]
        for current, new in pairwise(path):
            check_transition(current, new)

    @pytest.mark.parametrize("status", sorted(TERMINAL))
    def test_refuses_every_way_out_of_a_terminal_status(self, status: JobStatus) -> None:
        for new in JobStatus:
            with pytest.raises(IllegalTransition, match=f"a job that is {status} cannot become {new}"):
                check_transition(status, new)

    def test_keeps_the_promise_of_a_cancel(self) -> None:
        assert TRANSITIONS[JobStatus.CANCELLING] == {JobStatus.CANCELLED}

    def test_cancels_a_running_job_only_by_way_of_cancelling(self) -> None:
        with pytest.raises(IllegalTransition):
            check_transition(JobStatus.RUNNING, JobStatus.CANCELLED)


class TestTransitions:
    def test_every_status_that_is_not_terminal_has_a_way_on(self) -> None:
        for status in JobStatus:
            assert bool(TRANSITIONS[status]) is (status not in TERMINAL)


class TestSources:
    def test_inverts_the_transitions(self) -> None:
        assert sources(JobStatus.CANCELLED) == {JobStatus.QUEUED, JobStatus.PAUSED, JobStatus.CANCELLING}
