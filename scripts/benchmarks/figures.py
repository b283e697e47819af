"""Medians and spreads, the machine they were measured on, and how both are written."""

import os
import platform
import statistics


def summary(values):
    return {
        "median": statistics.median(values), "least": min(values), "most": max(values),
        "standard_deviation": statistics.pstdev(values),
    }


def machine():
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": core_count(),
        "load_average_before": load_average(),
    }


def core_count():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average():
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def machine_line(report):
    about = report["machine"]
    busy = f"load average {about['load_average_before']} before, {about['load_average_after']} after"
    return f"{about['system']}, {about['cores']} cores, {busy}"


def seconds(value):
    return f"{value:.3f} s"


def mebibytes(value):
    return f"{value / (1 << 20):.1f} MiB"
