"""References: the papers that a page's methods name, each with its address."""

import re
from collections.abc import Sequence

from vgp_lightning.report.markup import Markup, escape, join, tag
from vgp_lightning.report.page import Section

# Short form, the rest of the reference, address.
REFERENCES = {
    "planning": (
        "Janner et al. 2022",
        "M. Janner, Y. Du, J. B. Tenenbaum, S. Levine. Planning with Diffusion for Flexible Behavior Synthesis. ICML.",
        "https://arxiv.org/abs/2205.09991",
    ),
    "ddpm": (
        "Ho et al. 2020",
        "J. Ho, A. Jain, P. Abbeel. Denoising Diffusion Probabilistic Models. NeurIPS.",
        "https://arxiv.org/abs/2006.11239",
    ),
    "ddim": (
        "Song et al. 2021",
        "J. Song, C. Meng, S. Ermon. Denoising Diffusion Implicit Models. ICLR.",
        "https://arxiv.org/abs/2010.02502",
    ),
    "dpmsolver": (
        "Lu et al. 2022",
        "C. Lu, Y. Zhou, F. Bao, J. Chen, C. Li, J. Zhu. DPM-Solver++: Fast Solver for Guided Sampling of Diffusion "
        "Probabilistic Models.",
        "https://arxiv.org/abs/2211.01095",
    ),
    "unipc": (
        "Zhao et al. 2023",
        "W. Zhao, L. Bai, Y. Rao, J. Zhou, J. Lu. UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of "
        "Diffusion Models. NeurIPS.",
        "https://arxiv.org/abs/2302.04867",
    ),
    "guidance": (
        "Dhariwal and Nichol 2021",
        "P. Dhariwal, A. Nichol. Diffusion Models Beat GANs on Image Synthesis. NeurIPS.",
        "https://arxiv.org/abs/2105.05233",
    ),
    "bootstrap": (
        "Hesterberg 2015",
        "T. C. Hesterberg. What Teachers Should Know about the Bootstrap: Resampling in the Undergraduate Statistics "
        "Curriculum. The American Statistician 69(4).",
        "https://arxiv.org/abs/1411.5279",
    ),
    "iqm": (
        "Agarwal et al. 2021",
        "R. Agarwal, M. Schwarzer, P. S. Castro, A. Courville, M. G. Bellemare. Deep Reinforcement Learning at the "
        "Edge of the Statistical Precipice. NeurIPS.",
        "https://arxiv.org/abs/2108.13264",
    ),
    "wilson": (
        "Wilson 1927",
        "E. B. Wilson. Probable Inference, the Law of Succession, and Statistical Inference. Journal of the American "
        "Statistical Association 22(158).",
        "https://doi.org/10.1080/01621459.1927.10502953",
    ),
    "hartigan": (
        "Hartigan 1969",
        "J. A. Hartigan. Using Subsample Values as Typical Values. Journal of the American Statistical Association "
        "64(328).",
        "https://doi.org/10.1080/01621459.1969.10501057",
    ),
    "guenther": (
        "Guenther 1981",
        "W. C. Guenther. Sample Size Formulas for Normal Theory T Tests. The American Statistician 35(4).",
        "https://doi.org/10.1080/00031305.1981.10479363",
    ),
    "halving": (
        "Jamieson and Talwalkar 2016",
        "K. Jamieson, A. Talwalkar. Non-stochastic Best Arm Identification and Hyperparameter Optimization. AISTATS.",
        "https://proceedings.mlr.press/v51/jamieson16.html",
    ),
    "karnin": (
        "Karnin et al. 2013",
        "Z. Karnin, T. Koren, O. Somekh. Almost Optimal Exploration in Multi-Armed Bandits. ICML.",
        "https://proceedings.mlr.press/v28/karnin13.html",
    ),
    "d4rl": (
        "Fu et al. 2020",
        "J. Fu, A. Kumar, O. Nachum, G. Tucker, S. Levine. D4RL: Datasets for Deep Data-Driven Reinforcement Learning.",
        "https://arxiv.org/abs/2004.07219",
    ),
    "gymnasium": (
        "Towers et al. 2024",
        "M. Towers et al. Gymnasium: A Standard Interface for Reinforcement Learning Environments.",
        "https://arxiv.org/abs/2407.17032",
    ),
    "mujoco": (
        "Todorov et al. 2012",
        "E. Todorov, T. Erez, Y. Tassa. MuJoCo: A physics engine for model-based control. IROS.",
        "https://doi.org/10.1109/IROS.2012.6386109",
    ),
}
_MARK = re.compile(r"\{(\w+)\}")


def describe_methods(sentences: Sequence[str]) -> Section:
    """Return a paragraph of methods, to copy into a paper, and the references that it names.

    Args:
        sentences: In which ``{planning}`` stands for that reference. What comes from a report has no braces in it:
            see ``plain``.
    """
    text = " ".join(sentences)
    used = dict.fromkeys(_MARK.findall(text))
    parts: list[Markup] = []
    for i, piece in enumerate(_MARK.split(text)):
        short, _, address = REFERENCES[piece] if i % 2 else (piece, "", "")
        parts.append(join(["(", tag("a", short, href=address), ")"]) if i % 2 else escape(short))
    entries = []
    for key in used:
        short, rest, address = REFERENCES[key]
        entries.append(tag("li", f"{short}: {rest} ", tag("a", address, href=address)))
    listed = tag("ol", *entries) if entries else ""
    return Section("Methods, with references", [tag("p", join(parts)), listed])


def plain(value: object) -> str:
    """Return a value of a report as text that names no reference."""
    return str(value).replace("{", "(").replace("}", ")")
