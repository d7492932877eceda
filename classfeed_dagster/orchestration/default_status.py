"""Default status of schedules and sensors."""

from dataclasses import dataclass

import dagster as dg

from classfeed_dagster.settings import Environment, Settings


@dataclass(frozen=True, slots=True)
class DefaultStatus:
    """Status of schedules and sensors until a person changes it: on, but off on a laptop, where no date is due."""

    running: bool

    @classmethod
    def of(cls, settings: Settings) -> "DefaultStatus":
        """Return the status in an environment."""
        return cls(settings.env is not Environment.LOCAL)

    @property
    def schedule(self) -> dg.DefaultScheduleStatus:
        """Return the status of a schedule."""
        return dg.DefaultScheduleStatus.RUNNING if self.running else dg.DefaultScheduleStatus.STOPPED

    @property
    def sensor(self) -> dg.DefaultSensorStatus:
        """Return the status of a sensor."""
        return dg.DefaultSensorStatus.RUNNING if self.running else dg.DefaultSensorStatus.STOPPED
