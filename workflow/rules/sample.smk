rule sample:
    input:
        inputs("sample", train=["model.safetensors", "train.json"]),
    output:
        samples="results/{suite}/{experiment}/seed{seed}/samples.npy",
        grid=report(
            "results/{suite}/{experiment}/seed{seed}/grid.png",
            caption="../report/grid.rst",
            category="Samples",
            labels={"experiment": "{experiment}", "seed": "{seed}"},
        ),
        trajectory="results/{suite}/{experiment}/seed{seed}/trajectory.npz",
        record="results/{suite}/{experiment}/seed{seed}/sample.json",
    log:
        "logs/{suite}/{experiment}/seed{seed}/sample.log",
    benchmark:
        "logs/{suite}/{experiment}/seed{seed}/sample.tsv"
    threads: config["threads"]
    resources:
        mem_mb=asked("sample", "memory_mb"),
        runtime=asked("sample", "minutes"),
        gpu=gpus,
    params:
        experiment=f"{config['suite']}:{{experiment}}",
        overrides=overrides,
        to=subpath(output.record, parent=True),
    message:
        "sample {wildcards.experiment}, seed {wildcards.seed}"
    shell:
        "fdm sample {params.overrides} --seed {wildcards.seed} --to {params.to:q} --threads {threads}"
        " -- {params.experiment:q} 2>&1 | tee {log:q}"
