# Only for experiments with latent signals; experiments with the same autoencoder train it once.
rule pretrain:
    input:
        inputs("pretrain"),
        shared("pretrain", PRETRAININGS, *AUTOENCODER),
    output:
        model="results/{suite}/{experiment}/seed{seed}/autoencoder.safetensors",
        curve="results/{suite}/{experiment}/seed{seed}/autoencoder.csv",
        grid=report(
            "results/{suite}/{experiment}/seed{seed}/reconstructions.png",
            caption="../report/reconstructions.rst",
            category="Reconstructions",
            labels={"experiment": "{experiment}", "seed": "{seed}"},
        ),
        record="results/{suite}/{experiment}/seed{seed}/pretrain.json",
    log:
        "logs/{suite}/{experiment}/seed{seed}/pretrain.log",
    benchmark:
        "logs/{suite}/{experiment}/seed{seed}/pretrain.tsv"
    threads: config["threads"]
    resources:
        mem_mb=asked("pretrain", "memory_mb"),
        runtime=asked("pretrain", "minutes"),
        gpu=gpus,
        slurm_extra="--signal=USR1@120",
    params:
        experiment=f"{config['suite']}:{{experiment}}",
        overrides=overrides,
        to=subpath(output.record, parent=True),
    message:
        "pretrain the autoencoder of {wildcards.experiment}, seed {wildcards.seed}"
    shell:
        "fdm pretrain {params.overrides} --seed {wildcards.seed} --to {params.to:q} --threads {threads}"
        " -- {params.experiment:q} 2>&1 | tee {log:q}"
