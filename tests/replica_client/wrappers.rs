//! The wrappers: retries, counters and faults around a directory.

use std::sync::Arc;
use std::time::Duration;

use litestream::ErrorKind;
use litestream::clock::{Clock, ManualClock, SeededRandom};
use litestream::ltx::Txid;
use litestream::replica_client::{
    CountingClient, FaultClient, FaultPlan, ReplicaClient, RequestCounts, RetryClient, RetryPolicy,
    WriteMode,
};

use crate::support::{Backend, Replica, body, collect, data, id};

type Faulty = Arc<FaultClient<Arc<dyn ReplicaClient>>>;

struct Rig {
    _replica: Replica,
    faulty: Faulty,
    clock: Arc<ManualClock>,
    client: RetryClient<Faulty>,
}

fn rig(seed: u64, attempts: u32) -> Rig {
    let replica = Backend::File.replica();
    let clock = Arc::new(ManualClock::new(0));
    let random = Arc::new(SeededRandom::new(seed));
    let plan = FaultPlan::default();
    let inner = replica.client.clone();
    let faulty = Arc::new(FaultClient::new(inner, plan, clock.clone(), random.clone()));
    let policy = RetryPolicy { attempts, ..RetryPolicy::default() };
    let client = RetryClient::new(faulty.clone(), policy, clock.clone(), random);
    Rig { _replica: replica, faulty, clock, client }
}

#[tokio::test]
async fn retries_are_bounded_and_spread() {
    let rig = rig(1, 4);
    rig.faulty.set_plan(FaultPlan::outage());
    let before = rig.clock.monotonic();
    let error = rig.client.list(0, Txid::NONE, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    // 250, 500 and 1000 ms, each at least half and at most whole.
    let slept = rig.clock.monotonic() - before;
    assert!(slept >= Duration::from_millis(875) && slept <= Duration::from_millis(1_750));
}

#[tokio::test]
async fn what_is_not_transient_is_not_repeated() {
    let rig = rig(1, 4);
    let before = rig.clock.monotonic();
    let error = rig.client.read(&id(1, 1), 0, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(rig.clock.monotonic(), before);
}

#[tokio::test]
async fn faults_never_change_the_outcome_of_creates() {
    for seed in 0..50 {
        let rig = rig(seed, 30);
        rig.faulty.set_plan(FaultPlan {
            refuse: 0.2,
            lost_reply: 0.3,
            truncated_read: 0.3,
            delay_probability: 0.1,
            delay: Duration::from_millis(10),
            stale_list: 0.0,
        });
        let ours = data(1, 500_000);
        rig.client.write(&id(1, 1), 0, body(&ours), WriteMode::Create).await.unwrap();
        let other = rig.client.write(&id(1, 1), 0, body(&data(2, 9)), WriteMode::Create).await;
        assert_eq!(other.unwrap_err().kind(), ErrorKind::AlreadyExists, "seed {seed}");
        assert!(rig.client.read(&id(1, 1), 0, None).await.unwrap() == ours, "seed {seed}");
        let stream = rig.client.read_stream(&id(1, 1), 10, Some(400_000)).await.unwrap();
        assert!(collect(stream).await.unwrap() == ours.slice(10..400_010), "seed {seed}");
        rig.client.delete(&[id(1, 1)]).await.unwrap();
        assert!(rig.client.list(0, Txid::NONE, false).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn stale_listings_are_earlier_ones() {
    let rig = rig(3, 1);
    let content = data(1, 9);
    rig.client.write(&id(1, 1), 0, body(&content), WriteMode::Create).await.unwrap();
    assert_eq!(rig.client.list(0, Txid::NONE, false).await.unwrap().len(), 1);
    rig.client.write(&id(2, 2), 0, body(&content), WriteMode::Create).await.unwrap();
    rig.faulty.set_plan(FaultPlan { stale_list: 1.0, ..FaultPlan::default() });
    assert_eq!(rig.client.list(0, Txid::NONE, false).await.unwrap().len(), 1);
    rig.faulty.set_plan(FaultPlan::default());
    assert_eq!(rig.client.list(0, Txid::NONE, false).await.unwrap().len(), 2);
}

#[tokio::test]
async fn operations_are_counted_by_kind() {
    let replica = Backend::File.replica();
    let counts = Arc::new(RequestCounts::default());
    let client = CountingClient::new(replica.client.clone(), counts.clone());
    client.write(&id(1, 1), 0, body(&data(1, 100)), WriteMode::Create).await.unwrap();
    client.read(&id(1, 1), 10, Some(20)).await.unwrap();
    collect(client.read_stream(&id(1, 1), 0, None).await.unwrap()).await.unwrap();
    client.list(0, Txid::NONE, true).await.unwrap();
    client.delete(&[]).await.unwrap();
    client.delete(&[id(1, 1)]).await.unwrap();
    let json = serde_json::to_value(counts.snapshot()).unwrap();
    let expected = serde_json::json!({
        "list": 1, "get": 2, "put": 1, "head": 0, "delete": 1,
        "bytes_up": 100, "bytes_down": 120,
    });
    assert_eq!(json, expected);
}
