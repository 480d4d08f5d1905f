# With --config shards=N the features of a run's images are extracted by N jobs; `evaluate` then makes scores of them.
rule evaluate_shard:
    input:
        inputs("evaluate", train=["model.safetensors", "train.json"], sample=["samples.npy", "sample.json"]),
    output:
        mark=temp("results/{suite}/{experiment}/seed{seed}/.evaluate-{shard}-of-{shards}"),
    log:
        "logs/{suite}/{experiment}/seed{seed}/evaluate-{shard}-of-{shards}.log",
    benchmark:
        "logs/{suite}/{experiment}/seed{seed}/evaluate-{shard}-of-{shards}.tsv"
    threads: config["threads"]
    resources:
        mem_mb=asked("evaluate", "memory_mb"),
        runtime=asked("evaluate", "minutes"),
        gpu=gpus,
    params:
        experiment=f"{config['suite']}:{{experiment}}",
        overrides=overrides,
        to=subpath(output.mark, parent=True),
        identity=lambda wildcards: wanted("evaluate", wildcards.experiment, wildcards.seed),
    message:
        "features for {wildcards.experiment}, seed {wildcards.seed}, shard {wildcards.shard} of {wildcards.shards}"
    shell:
        "fdm evaluate {params.overrides} --seed {wildcards.seed} --to {params.to:q} --threads {threads}"
        " --shard {wildcards.shard}/{wildcards.shards} -- {params.experiment:q} 2>&1 | tee {log:q}"
        " && echo {params.identity} > {output.mark:q}"


rule evaluate:
    input:
        inputs("evaluate", train=["model.safetensors", "train.json"], sample=["samples.npy", "sample.json"]),
        shards("evaluate"),
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
