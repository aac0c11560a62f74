//! A broker on a port and folder of one's choice, until a line or the end of standard input comes.
#![allow(clippy::unwrap_used)]
fn main() {
    let mut args = std::env::args().skip(1);
    let port = args.next().map_or(0, |p| p.parse().unwrap());
    let data_dir = args.next().unwrap_or_else(|| "data".into()).into();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let config = broker::Config {
            port,
            data_dir,
            management_port: None,
            allow_guest: true,
            ..broker::Config::default()
        };
        let broker = broker::Broker::start(config).await.unwrap();
        println!("{:?}", broker.addresses());
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .unwrap()
            .recv()
            .await;
        broker.shutdown().await;
    });
}
