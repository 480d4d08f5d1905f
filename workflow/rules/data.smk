rule prepare:
    output:
        # Snakemake does not delete it before the job, so that what is there stays where the new one cannot be made.
        manifest=update("data/{dataset}/manifest.json"),
    log:
        "logs/data/{dataset}.log",
    benchmark:
        "logs/data/{dataset}.tsv"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        overrides=overrides,
    message:
        "prepare {wildcards.dataset}"
    shell:
        # It runs where data are missing, damaged or of another description than the suite's: that is to be replaced.
        "fdm data {params.overrides} --force -- {wildcards.dataset:q} 2>&1 | tee {log:q}"
