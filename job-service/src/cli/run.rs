//! temp
pub(super) async fn run(_args: super::args::RunArgs) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("soon")
}
