//! The short form of `make chaos`: the same parts on fewer cars, on the control plane that all tests share.

use kerbside_testbed::bed::Bed;
use kerbside_testbed::chaos::{self, Options};

use super::*;

#[tokio::test]
async fn night_and_morning_with_faults_cost_no_completion_and_repeat_none() -> Result<()> {
    let bed = Bed::from_environment().await?;
    let figures = chaos::run(&bed, &Options::short()).await?;
    print!("{}", figures.table());
    println!("{}", figures.json());
    figures.check()
}
