rule report:
    input:
        lambda wildcards: [
            path
            for run in RUNS
            for path in files("train", *run, "training.csv")
            + files("sample", *run, "grid.png", "trajectory.npz")
            + files("evaluate", *run, "metrics.json", "cost.json", "neighbours.npz", "forward.npz", "manifest.json")
            + (files("pretrain", *run, *PRETRAIN_REPORTED) if PRETRAININGS[run[0]] else [])
        ]
        + extra_files(),
    output:
        record="reports/{suite}/.identity",
        page="reports/{suite}/index.html",
        manifest="reports/{suite}/manifest.json",
        metrics="reports/{suite}/metrics.json",
        plots=directory("reports/{suite}/plots"),
        tables=report(
            directory("reports/{suite}/tables"),
            patterns=["{name}.csv"],
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{name}"},
        ),
        figures=report(
            directory("reports/{suite}/figures"),
            patterns=["{name}.png"],
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{name}"},
        ),
    log:
        "logs/{suite}/report.log",
    benchmark:
        "logs/{suite}/report.tsv"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        suite=config["suite"],
        identity=report_identity,
    message:
        "report on {wildcards.suite}"
    shell:
        "fdm report -- {params.suite:q} 2>&1 | tee {log:q} && echo {params.identity} > {output.record:q}"
