"""What requests name by the configuration: a model of a cluster that serves several, and a class of service."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.classes import ServiceClass, drawn_classes, named_classes
from simjax.workload.config import WorkloadConfig
from simjax.workload.models import RequestModels
from simjax.workload.synthetic.streams import CLASSES, MODELS, stream
from simjax.workload.workload import Workload


def with_names(config: WorkloadConfig, workload: Workload) -> Workload:
    """The workload whose requests name the models and have the classes of the configuration."""
    return _with_classes(config, _naming_models(config, workload))


def _with_classes(config: WorkloadConfig, workload: Workload) -> Workload:
    """The workload whose requests have the classes of the configuration: by their shares, or as a trace names them.

    Raises:
        SimjaxError: a class is malformed, has a share where a trace names the classes or none where they are drawn, or has a priority
            where a trace gives the priorities.
    """
    if not config.classes:
        return workload
    classes = {str(name): ServiceClass.of(str(name), given) for name, given in config.classes.items()}
    for name, one in classes.items():
        if workload.classes is None and one.share is None:
            raise SimjaxError(f"workload.classes.{name}.share is not set; {workload.source} names no classes: they are drawn by shares")
        if workload.classes is not None and one.share is not None:
            raise SimjaxError(f"workload.classes.{name}.share has no effect: the requests of {workload.source} name their classes already")
        if workload.priority is not None and one.priority:
            raise SimjaxError(f"workload.classes.{name}.priority has no effect: the requests of {workload.source} have priorities already")
    if workload.classes is None:
        of = np.arange(len(workload)) if workload.sessions is None else workload.sessions.session
        found = drawn_classes(classes, stream(config.seed, CLASSES).random(int(of.max()) + 1)[of])
    else:
        found = named_classes(classes, workload.classes)
    of_class = [classes[name].priority if name in classes else 0 for name in found.names]
    priority = np.array([*of_class, 0], np.int32)[found.index] if workload.priority is None else workload.priority
    return replace(workload, classes=found, priority=priority)


def _naming_models(config: WorkloadConfig, workload: Workload) -> Workload:
    """The workload whose requests name the models of the configuration, by their weights; calls of a session name the same.

    Raises:
        SimjaxError: a weight is no positive number, or the requests name models already.
    """
    if not config.models:
        return workload
    for name, weight in config.models.items():
        if not (0 < weight < np.inf):
            raise SimjaxError(f"workload.models: {name} has the weight {weight:g}; it must be positive")
    if workload.models is not None:
        raise SimjaxError(f"workload.models: the requests of {workload.source} name their models already; {{}} unsets it")
    names, weights = list(config.models), np.array(list(config.models.values()), np.float64)
    of = np.arange(len(workload)) if workload.sessions is None else workload.sessions.session
    drawn = stream(config.seed, MODELS).random(int(of.max()) + 1)
    index = np.searchsorted(np.cumsum(weights / weights.sum())[:-1], drawn, side="right")
    return replace(workload, models=RequestModels.of([names[i] for i in index[of].tolist()]))
