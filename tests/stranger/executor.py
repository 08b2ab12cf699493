"""An executor of a stranger's own: jobs one after the other in this process, the last one first."""

from qwafer.execution import Event, Failure, perform


class Backwards:
    ran: list[str] = []  # noqa: RUF012  # what the tests look at

    def __init__(self, jobs=1):
        pass

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass

    def run(self, jobs, on_event):
        for job in reversed(list(jobs)):
            on_event(Event(job.key, "started"))
            try:
                result = perform(
                    job.function, job.payload, lambda part, key=job.key: on_event(Event(key, "progress", part))
                )
                on_event(Event(job.key, "done", 1.0, result))
            except Exception as error:
                on_event(Event(job.key, "failed", failure=Failure.of(error)))
            self.ran.append(job.key)
