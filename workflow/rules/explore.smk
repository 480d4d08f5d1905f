# Variations and interpolations: only for experiments with `exploration.vary` or `exploration.interpolate`.
rule explore:
    input:
        lambda wildcards: inputs(wildcards.kind, train=["model.safetensors", "train.json"])(wildcards),
    output:
        images="results/{suite}/{experiment}/seed{seed}/{kind}.npy",
        picture=report(
            "results/{suite}/{experiment}/seed{seed}/{kind}.png",
            caption="../report/explore.rst",
            category="Variations and interpolations",
            labels={"experiment": "{experiment}", "seed": "{seed}", "kind": "{kind}"},
        ),
        record="results/{suite}/{experiment}/seed{seed}/{kind}.json",
    log:
        "logs/{suite}/{experiment}/seed{seed}/{kind}.log",
    benchmark:
        "logs/{suite}/{experiment}/seed{seed}/{kind}.tsv"
    wildcard_constraints:
        kind="vary|interpolate",
    threads: config["threads"]
    resources:
        mem_mb=lambda _, attempt: 3000 * attempt,
        runtime=lambda _, attempt: 60 * attempt,
        gpu=gpus,
    params:
        experiment=f"{config['suite']}:{{experiment}}",
        overrides=overrides,
        to=subpath(output.record, parent=True),
    message:
        "{wildcards.kind} with {wildcards.experiment}, seed {wildcards.seed}"
    shell:
        "fdm {wildcards.kind} {params.overrides} --seed {wildcards.seed} --to {params.to:q} --threads {threads}"
        " -- {params.experiment:q} 2>&1 | tee {log:q}"
