# Only for experiments with `restoration.stages`.
rule restore:
    input:
        inputs("restore", train=["model.safetensors", "train.json"]),
        ilvr_baseline,
    output:
        images="results/{suite}/{experiment}/seed{seed}/restored.npz",
        picture=report(
            "results/{suite}/{experiment}/seed{seed}/restore.png",
            caption="../report/restore.rst",
            category="Restorations",
            labels={"experiment": "{experiment}", "seed": "{seed}"},
        ),
        record="results/{suite}/{experiment}/seed{seed}/restore.json",
    log:
        "logs/{suite}/{experiment}/seed{seed}/restore.log",
    benchmark:
        "logs/{suite}/{experiment}/seed{seed}/restore.tsv"
    threads: config["threads"]
    resources:
        mem_mb=lambda _, attempt: 3000 * attempt,
        runtime=lambda _, attempt: 120 * attempt,
        gpu=gpus,
    params:
        experiment=f"{config['suite']}:{{experiment}}",
        overrides=overrides,
        to=subpath(output.record, parent=True),
    message:
        "restore with {wildcards.experiment}, seed {wildcards.seed}"
    shell:
        "fdm restore {params.overrides} --seed {wildcards.seed} --to {params.to:q} --threads {threads}"
        " -- {params.experiment:q} 2>&1 | tee {log:q}"
