"""What the TTFT of measured mean points includes: prints one line a figure, `figure<TAB>value`.

    python experiments/validation/first_tokens.py        # a second

A prompt does not know how long its answer will be. So where an instance was measured with answers of 1,024 and of 8,192 tokens, to prompts
of one length, with as many requests in flight, its TTFT differs only by what the two servers do with the first token. In steps:
(TTFT with short answers - TTFT with long ones) / TPOT. A server that sends tokens in bundles of n delays the first ones by n - 1 steps,
whatever the load is. Nothing is simulated here.
"""

from __future__ import annotations

import pandas as pd
from cases import DATA

TABLE = DATA / "silicon" / "deployments.csv"
DEPLOYMENT = ["system", "backend", "model_path", "precision", "true_tp", "true_ep", "true_dp", "isl", "concurrency"]
SHORT, LONG = 1024, 8192


def late_steps(table: pd.DataFrame) -> pd.DataFrame:
    """Steps by which the first token comes later with short answers, for each deployment, prompt length and concurrency.

    Rows that several collections repeat count once.
    """
    points = table[table["mode"] == "agg"].drop_duplicates([*DEPLOYMENT, "osl", "ttft_ms", "tpot_ms"])
    points = points.groupby([*DEPLOYMENT, "osl"], dropna=False)[["ttft_ms", "tpot_ms"]].mean().unstack("osl")
    points = points.dropna(subset=[("ttft_ms", SHORT), ("ttft_ms", LONG)])
    late = (points["ttft_ms", SHORT] - points["ttft_ms", LONG]) / points["tpot_ms", SHORT]
    return late.rename("late_steps").reset_index()


def main() -> None:
    """Print for each deployment by how many steps: the median, the least and the most."""
    frame = pd.read_csv(TABLE)
    kept = frame.drop_duplicates([*DEPLOYMENT, "mode", "osl", "ttft_ms", "tpot_ms"])
    print(f"rows\t{len(frame)}\nrows_that_repeat_another\t{len(frame) - len(kept)}")
    for name, rows in late_steps(frame).groupby(DEPLOYMENT[:6], dropna=False):
        system, backend, model, precision, tp, ep = name
        words = f"{system} {backend} {str(model).rsplit('/', 1)[-1]} {precision} tp{tp:.0f} ep{ep:.0f}"
        steps = rows["late_steps"]
        spread = f"{steps.min():.1f} to {steps.max():.1f} at {rows['concurrency'].min()} to {rows['concurrency'].max()} requests"
        print(f"first_token_late_steps {words}\t{steps.median():.1f}\t{spread}")


if __name__ == "__main__":
    main()
