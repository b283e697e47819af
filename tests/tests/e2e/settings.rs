//! What `hearth.toml` says of a model reaches its worker.

use serde_json::json;

use crate::home;

#[tokio::test]
async fn a_models_table_decides_how_its_worker_loads_and_stays() {
    let config = r#"
        slots = 2
        keep_alive_max = "1h"

        [models.m]
        context_length = 96
        threads = 3
        execution_provider = "cpu"
        graph = "exact"
        cuda_graphs = "on"
        variant = "q4"
        keep_alive = -1
    "#;
    let home = home().with_fake_model("n").with_config(config);
    let gateway = home.start_fake(&[], &[("HEARTH_GRAPH", "memory")]).await;
    for (model, spec, keep_alive) in [
        (
            "m",
            "spec variant=Some(\"q4\") graph=exact provider=cpu threads=Some(3) context=Some(96) \
             slots=Some(2) cuda_graphs=true",
            json!(3600.0),
        ),
        (
            "n",
            "spec variant=None graph=memory provider=auto threads=None context=None slots=Some(2) \
             cuda_graphs=false",
            json!(300.0),
        ),
    ] {
        gateway.chat(model, json!({})).await.text().await;
        gateway.stage.next_worker().await.heard(spec).await;
        let name = format!("{model}:latest");
        let ps = gateway.ps().await.into_iter().find(|entry| entry["name"] == name).unwrap();
        assert_eq!(ps["keep_alive"], keep_alive);
    }
}
