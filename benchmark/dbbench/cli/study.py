"""`dbbench study`: ask people which of two images is better, and analyse the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbbench.errors import UserError, unknown
from dbbench.storage.disk import RESULTS
from dbbench.terminal import plain_console

study_app = typer.Typer(
    no_args_is_help=True,
    help="Ask people which of two images is better, and analyse the answers.",
)
app = typer.Typer()
app.add_typer(study_app, name="study")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A study's folder.")]


@study_app.command(
    epilog="Examples:\n\ndbbench study create results/mini --question subject\n\n"
    "dbbench study create results/a results/b --question prompt --pairs 300 --seed 1"
)
def create(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Output folders of dbbench run.")
    ],
    question: Annotated[
        str, typer.Option(help="The fidelity to ask about: subject or prompt.")
    ] = "subject",
    out: Annotated[
        Path | None, typer.Option(help="The new folder. Default: results/study-QUESTION.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="Number of different image pairs.")] = 600,
    raters_per_pair: Annotated[int, typer.Option(help="Number of people who judge each pair.")] = 3,
    questions_per_rater: Annotated[int, typer.Option(help="Number of questions per person.")] = 25,
    checks: Annotated[
        int, typer.Option(help="Attention checks per person, in addition to the questions.")
    ] = 2,
    quota: Annotated[
        int | None,
        typer.Option(help="People that the open link admits. Default: 25% more than needed."),
    ] = None,
    lease_minutes: Annotated[
        int, typer.Option(help="Minutes without an answer until open questions go to others.")
    ] = 60,
    seed: Annotated[int, typer.Option(help="Seed of the drawn pairs.")] = 0,
    consent: Annotated[
        Path | None, typer.Option(help="Text file that replaces the built-in consent.")
    ] = None,
    completion_code: Annotated[
        str | None,
        typer.Option(help="One completion code for all. Default: one per person."),
    ] = None,
) -> None:
    """Draw pairs of two methods' images and write a study's folder."""
    from dbbench.bars import shown
    from dbbench.study.design.create import StudySettings, create_study
    from dbbench.study.design.study import STUDY_QUESTIONS
    from dbbench.study.design.texts import default_texts

    if question not in STUDY_QUESTIONS:
        raise unknown("question", question, STUDY_QUESTIONS, "")
    settings = StudySettings(
        question=question,
        pairs=pairs,
        raters_per_pair=raters_per_pair,
        questions_per_rater=questions_per_rater,
        checks_per_rater=checks,
        quota=quota,
        lease_minutes=lease_minutes,
        seed=seed,
    )
    texts = default_texts(
        question, questions_per_rater + checks, consent=consent, completion_code=completion_code
    )
    folder = out or RESULTS / f"study-{question}"
    with shown("copying images") as (_, advance):
        study = create_study(runs, folder, settings, texts, advance)
    console = plain_console(soft_wrap=True, highlight=False)
    console.print(
        f"{folder}: {len(study.pairs)} pairs of {', '.join(study.methods)};"
        f" {study.raters_needed} raters with {study.questions_per_rater} questions each are needed",
        markup=False,
    )
    if study.banner:
        console.print(study.banner, style="yellow", markup=False)
    console.print(f"next: dbbench study serve {folder}", markup=False)


Url = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="postgresql://user:password@host/name. Default: SQLite in the study's folder.",
    ),
]


@study_app.command(
    epilog="Examples:\n\ndbbench study serve results/study-subject\n\n"
    "dbbench study serve DIR --database postgresql://me:secret@localhost/study"
    " --address https://study.example.org"
)
def serve(
    folder: Folder,
    database: Url = None,
    host: Annotated[
        str, typer.Option(help="Address to bind to. 0.0.0.0 opens it to the network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    address: Annotated[
        str | None,
        typer.Option(help="Public address, if raters use another one (a proxy)."),
    ] = None,
) -> None:
    """Serve the questionnaire until interrupted; every confirmed answer is on the disk."""
    from dbbench.study import require_extra

    require_extra()
    from dbbench.study.design.secret import Secrets
    from dbbench.study.design.study import load_study
    from dbbench.study.server.web import make_app
    from dbbench.study.server.web import serve as serve_app

    public = (address or f"http://{host}:{port}").rstrip("/")
    study, secrets = load_study(folder), Secrets.load(folder)
    app = make_app(folder, database, https=public.startswith("https://"))
    console = plain_console(soft_wrap=True, highlight=False)
    console.print(f"open link   {public}/join/{secrets.sign('open', study.id)}", markup=False)
    console.print(f"            admits {study.quota} raters", markup=False)
    console.print(f"personal    dbbench study links {folder} --address {public}", markup=False)
    console.print(f"progress    {public}/admin (token in {folder}/secrets.json)", markup=False)
    if host not in {"127.0.0.1", "localhost", "::1"} and not public.startswith("https://"):
        console.print(
            "without https, others on the network can read the links: put a proxy with https in"
            " front and give its address with --address",
            style="yellow",
        )
    serve_app(app, host, port)


@study_app.command(epilog="Example:  dbbench study links results/study-subject --count 80")
def links(
    folder: Folder,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Number of links. Default: the number of raters needed."),
    ] = None,
    address: Annotated[
        str, typer.Option(help="Public address of the server.")
    ] = "http://127.0.0.1:8000",
) -> None:
    """Print personal links, one per rater; each call prints the same links."""
    from dbbench.study import require_extra

    require_extra()
    from dbbench.study.design.secret import Secrets
    from dbbench.study.design.study import load_study

    study, secrets = load_study(folder), Secrets.load(folder)
    for number in range(count or study.raters_needed):
        rater = secrets.opaque("rater", number)
        print(f"{address.rstrip('/')}/r/{secrets.sign('link', rater)}")


@study_app.command(epilog="Example:  dbbench study export results/study-subject --out answers.csv")
def export(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="A new file, .csv or .jsonl.")],
    database: Url = None,
) -> None:
    """Write all answers to a file: rater, pair, choice, time and seconds."""
    from dbbench.files import write_text
    from dbbench.storage.disk import storage_errors
    from dbbench.study import require_extra

    require_extra()
    from dbbench.study.answers.answers import FILE_TYPES, export_text
    from dbbench.study.answers.store import open_store

    store = open_store(folder, database)
    kind = out.suffix.removeprefix(".")
    if kind not in FILE_TYPES:
        raise UserError(f"{out}: the name must end in .csv or .jsonl")
    answers = store.answers()
    with storage_errors(out):
        write_text(out, export_text(store.study, answers, kind))
    print(f"{out}: {len(answers)} answers")


@study_app.command(
    "import", epilog="Example:  dbbench study import results/study-subject answers.csv"
)
def import_(
    folder: Folder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .csv or .jsonl file.")],
    database: Url = None,
) -> None:
    """Add a file's answers, all or none. Columns: rater, pair, choice; optional: seconds."""
    from dbbench.study import require_extra

    require_extra()
    from dbbench.study.answers.answers import importable
    from dbbench.study.answers.store import open_store

    store = open_store(folder, database)
    rows = importable(store.study, file)
    try:
        count = store.add(rows)
    except ValueError as error:
        raise UserError(f"{file}: {error}; nothing was added") from None
    print(f"{folder}: {count} answers added")


@study_app.command(
    epilog="Examples:\n\ndbbench study results results/study-subject\n\n"
    "dbbench study results answers.csv --out tables"
)
def results(
    source: Annotated[
        Path, typer.Argument(metavar="DIR|FILE", help="A study's folder, or a file of answers.")
    ],
    database: Url = None,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Analyse the answers of dbbench study simulate.")
    ] = False,
    only_attentive: Annotated[
        bool,
        typer.Option("--only-attentive", help="Leave out raters who failed an attention check."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Output folder. Default: DIR/results.")] = None,
) -> None:
    """Print the tables; write them as CSV, Markdown, LaTeX and a page."""
    from dbbench.study import require_extra

    require_extra()
    from dbbench.bars import shown
    from dbbench.reports.study.pages import print_study, write_study_page
    from dbbench.reports.study.preferences import Preferences
    from dbbench.storage.disk import storage_errors
    from dbbench.study.analysis.results import analyse_file, analyse_folder, simulated_url

    with shown("analysing"):
        if source.is_file():
            analysis = analyse_file(source, only_attentive=only_attentive)
            folder = out or source.with_suffix("")
        else:
            url = simulated_url(source) if simulated else database
            analysis = analyse_folder(source, url, only_attentive=only_attentive)
            folder = out or source / ("results-simulated" if simulated else "results")
    preferences = Preferences((analysis,))
    console = plain_console()
    print_study(preferences, console)
    with storage_errors(folder):
        page = write_study_page(preferences, folder)
    console.print(f"page: {page}", soft_wrap=True, highlight=False, markup=False)
