from app.db.models import Dataset, Job, Teacher
from app.settings import Settings
from tests.bad_days import older_rows
from worker.distill.config import JobConfig
from worker.distill.methods.random_anchors import RandomAnchors
from worker.distill.methods.sage import Sage
from worker.inputs import describe_job


class TestDescribeJob:
    def test_a_job_of_an_older_release_stays_what_it_was_posted_as(self) -> None:
        """Harm: an upgrade that fails the jobs that wait, or gives them another student than they asked for."""
        posted = older_rows.job("job_1", "queued")
        job = Job(id="job_1", **{name: posted[name] for name in ("student", "teacher_tuning", "baselines")})
        # Of the fields that came later, the student's and the method's are asked about here.
        job.method = {
            "type": "sage", "temperature": 2.0, "alpha": 0.9, "rounds": 4, "warmup_epochs": 1.0,
            "synthetic_ratio": 0.5, "neighbors": 10, "anchor_quantile": 0.2, "early_stopping": True,
        }  # fmt: skip
        job.training = posted["training"] | {
            "warmup_ratio": 0.1, "weight_decay": 0.01, "max_length": 48, "deterministic": False,
        }  # fmt: skip
        job.teacher_tuning = None
        job.combine = []
        job.baselines = [
            {"type": "random_anchors", "temperature": 2.0, "alpha": 0.9, "rounds": 4, "warmup_epochs": 1.0,
             "synthetic_ratio": 0.5, "neighbors": 10},
        ]  # fmt: skip
        spec = describe_job(job, Teacher(sha256="a"), Dataset(sha256="b"), Settings())
        parsed = JobConfig.parse(spec)
        assert parsed.student.word_vectors == "frozen"
        sage = parsed.method.read(Sage)
        older = (10_000_000, "shift", 1.0, "region")
        assert (sage.scored_rows, sage.lift, sage.candidates, sage.targeting) == older
        assert parsed.baselines[0].read(RandomAnchors).lift == "shift"
        job.student = job.student | {"word_vectors": "trained"}
        job.method = job.method | {
            "scored_rows": 2_048, "lift": "splice", "candidates": 4.0, "targeting": "rows"
        }  # fmt: skip
        spec = describe_job(job, Teacher(sha256="a"), Dataset(sha256="b"), Settings())
        parsed = JobConfig.parse(spec)
        assert parsed.student.word_vectors == "trained"
        sage = parsed.method.read(Sage)
        assert (sage.scored_rows, sage.lift, sage.candidates, sage.targeting) == (2_048, "splice", 4.0, "rows")
