"""The teacher after `teacher_tuning`: from the cache, or by tuning it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.numpy import load_file

from worker.distill.arms import TUNING
from worker.distill.cache_keys import TUNED_TEACHERS, tuned_teacher_key
from worker.distill.config import JobConfig, TeacherTuningConfig
from worker.distill.export import sha256_of
from worker.distill.families import count_layers
from worker.distill.network import Network
from worker.distill.networks import put_weights
from worker.distill.objectives import CrossEntropy
from worker.distill.progress import Progress, training_work
from worker.distill.run_cache import RunCache
from worker.distill.run_checkpoints import RunCheckpoints
from worker.distill.strategies.real_rows import RealRows
from worker.distill.train import Arm, ArmResult, Schedule

_INPUT = "tuned_teacher"  # as checkpoints record it


@dataclass(frozen=True)
class TunedTeacher:
    """The tuned weights of one job's `teacher`. They are in no checkpoint: each would be larger by them."""

    job: JobConfig
    teacher: Network
    tokens_sha256: str  # of the dataset
    cache: RunCache
    checkpoints: RunCheckpoints
    progress: Progress

    def plan(self, rows: int) -> None:
        """Foresee the tuning on that many training rows, where it is to be done."""
        tuning = self.job.teacher_tuning
        if tuning is not None and self._find() is None:
            self.progress.redo(TUNING)
            self.progress.plan(TUNING, training_work(count_layers(self.teacher.model), tuning.epochs * rows))

    def bring(self, train: Callable[[Arm], ArmResult]) -> str | None:
        """Put them into the teacher, if the job asks for them; `train` trains it. Returns their content hash.

        Where the cache has lost them since an arm began to learn from the tuned teacher, it is tuned again, on the same
        machine to the same bits. That arm waits meanwhile, in the checkpoints of the tuning too; and what it began with
        stays recorded there, until the teacher is here again to be compared.
        """
        tuning = self.job.teacher_tuning
        if tuning is None:
            return None
        found = self._find()
        if found is None:
            is_again = self.checkpoints.began_with(_INPUT)
            if not is_again:
                self.checkpoints.announce_resume()
            result = train(self._arm(tuning))
            if not is_again:
                self.checkpoints.count_steps(result)
            self.teacher.end_training()
            arrays = {name: tensor.numpy() for name, tensor in result.best_weights.items()}
            found = self.cache.share(TUNED_TEACHERS, self._key, self._file, arrays)
        self.checkpoints.preparation[TUNING] = self.progress.done(TUNING)
        self.checkpoints.take(TUNING)  # where the cache has more than the checkpoint
        put_weights(self.teacher, {name: torch.from_numpy(array) for name, array in load_file(found).items()})
        sha256 = sha256_of(found)
        self.checkpoints.goes_on_with(_INPUT, sha256)
        return sha256

    def _find(self) -> Path | None:
        """Those that the cache has. A tuning that has begun goes on all the same: what another run has left there
        meanwhile may have come about on another machine, to other bits."""
        if self.checkpoints.has_begun(TUNING) and not self.checkpoints.began_with(_INPUT):
            return None
        return self.cache.find(TUNED_TEACHERS, self._key, self._file)

    @property
    def _key(self) -> str:
        key = tuned_teacher_key(self.job)
        assert key is not None, "the job tunes its teacher"
        return key

    @property
    def _file(self) -> str:
        return f"trained-{self.tokens_sha256[:16]}.safetensors"

    def _arm(self, tuning: TeacherTuningConfig) -> Arm:
        return Arm(
            name=TUNING,
            phase=TUNING,
            seed=tuning.seed,
            epochs=tuning.epochs,
            objective=CrossEntropy(),
            strategy=RealRows(),
            parameterisation=None,
            schedule=Schedule(tuning.learning_rate, tuning.warmup_ratio, tuning.weight_decay, tuning.batch_size),
            layers=count_layers(self.teacher.model),
            trains_words=True,
        )
