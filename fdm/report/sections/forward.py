"""Processes apart from any network: signal over noise, rescaling, information, the oracle's error."""

from __future__ import annotations

from fdm.report.extras import forwards
from fdm.report.forward import differ_in_snr, information_figure, oracle_figure, snr_figure
from fdm.report.section import Block, Canvas, Section

ORDER = 32


def build(canvas: Canvas) -> Section | None:
    """None where the results hold nothing about forward processes."""
    pairs = forwards(canvas.results)
    if not pairs:
        return None
    blocks: list[Block] = []
    for name, ablation in canvas.results.ablations.items():
        members = [pair for wanted in ablation.experiments for pair in pairs if pair[0].name == wanted]
        if differ_in_snr(members):
            blocks.append(
                canvas.draw(
                    f"snr-{name}",
                    ablation.title,
                    "Measured on 64 training images. A jump to fewer pixels keeps signal power and noise variance per element, so that "
                    "the signal energy of the whole image over the noise falls with the number of pixels; rescaling raises the ratio "
                    "per element so that the total stays the same. Below: one training image with the same noise at the start, in the "
                    "middle and at the end of every stage.",
                    f"{ablation.title}: signal over noise against time, and noisy images",
                    snr_figure(members, canvas.looks),
                )
            )
    information = information_figure(pairs, canvas.looks)
    if information:
        blocks.append(
            canvas.draw(
                "information",
                "Information in a noisy state and in a smaller image",
                "Mutual information with the image in closed form, for Gaussian images of the oracle's covariance "
                "(docs/mathematics.md). Left: where the line of a smaller size meets that of the state, the finer pixels of the "
                "state say nothing about the image. Broken lines: clean 8-bit images of each size; a state below one "
                "holds less than that small image does. Right: across a jump that keeps everything the line does not step.",
                "Information in bits against time, for states, their smaller versions and the states of each process",
                information,
            )
        )
    oracle = oracle_figure(pairs, canvas.looks)
    if oracle:
        blocks.append(
            canvas.draw(
                "oracle",
                "Error of the method itself against evaluations",
                "The closed-form oracle with each experiment's own solver, on Gaussian images of 8×8 pixels: the best possible network, "
                "no training and no sampling error. Squared variances make it an error of the coarsest frequencies above all (`fdm verify --measure frechet` weighs detail as well), "
                "so read it for limits and orders, not for which method is ahead at a few steps. What keeps falling, as 1/N or with multistep2 as 1/N², is exact in the limit; a dotted line is the floor that the "
                "largest N point to: what the method loses by its construction, whatever the number of steps. Experiments with equal "
                "errors are drawn once, those without a floor in grey.",
                "Relative covariance error against the number of evaluations, one line per method, with floors",
                oracle,
            )
        )
    if not blocks:
        return None
    return Section("forward", "Processes", tuple(blocks))
