rule evaluate:
    input:
        inputs("evaluate", train=["model.safetensors", "train.json"], sample=["samples.npy", "sample.json"]),
    output:
        metrics="results/{suite}/{experiment}/seed{seed}/metrics.json",
        cost="results/{suite}/{experiment}/seed{seed}/cost.json",
        neighbours="results/{suite}/{experiment}/seed{seed}/neighbours.npz",
        forward="results/{suite}/{experiment}/seed{seed}/forward.npz",
        record="results/{suite}/{experiment}/seed{seed}/manifest.json",
    log:
        "logs/{suite}/{experiment}/seed{seed}/evaluate.log",
    benchmark:
        "logs/{suite}/{experiment}/seed{seed}/evaluate.tsv"
    threads: config["threads"]
    resources:
        mem_mb=asked("evaluate", "memory_mb"),
        runtime=asked("evaluate", "minutes"),
        gpu=gpus,
    params:
        experiment=f"{config['suite']}:{{experiment}}",
        overrides=overrides,
        to=subpath(output.record, parent=True),
    message:
        "evaluate {wildcards.experiment}, seed {wildcards.seed}"
    shell:
        "fdm evaluate {params.overrides} --seed {wildcards.seed} --to {params.to:q} --threads {threads}"
        " -- {params.experiment:q} 2>&1 | tee {log:q}"
