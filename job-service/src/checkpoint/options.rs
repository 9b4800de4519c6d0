//! Which options of a store are taken, and from where.
//!
//! `object_store` knows many options also without a prefix (`ENDPOINT`, `TOKEN`, `TIMEOUT`), takes the later of two
//! names of one thing, and drops what it does not know. So nothing reaches it that is not in the lists here: a token
//! must not go to an endpoint that another program's variable names, and a mistyped option must not be as good as none.

use std::collections::BTreeMap;
use std::fmt;

/// The schemes that [`Storage::open`](super::Storage::open) takes.
pub(super) const SCHEMES: &str = "file://, s3://, s3a://, gs://, az://, abfs:// and abfss://";

/// Whose store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Provider {
    File,
    Amazon,
    Google,
    Azure,
}

const CLIENT: &[&str] = &[
    "ALLOW_HTTP",
    "ALLOW_INVALID_CERTIFICATES",
    "CONNECT_TIMEOUT",
    "POOL_IDLE_TIMEOUT",
    "POOL_MAX_IDLE_PER_HOST",
    "PROXY_CA_CERTIFICATE",
    "PROXY_EXCLUDES",
    "PROXY_URL",
    "READ_TIMEOUT",
    "TIMEOUT",
];

const AMAZON: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_CHECKSUM_ALGORITHM",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_DEFAULT_REGION",
    "AWS_DISABLE_BULK_DELETE",
    "AWS_DISABLE_TAGGING",
    "AWS_ENDPOINT",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_IMDSV1_FALLBACK",
    "AWS_METADATA_ENDPOINT",
    "AWS_REGION",
    "AWS_REQUEST_PAYER",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_S3_EXPRESS",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SESSION_TOKEN",
    "AWS_SKIP_SIGNATURE",
    "AWS_SSE_BUCKET_KEY_ENABLED",
    "AWS_SSE_CUSTOMER_KEY_BASE64",
    "AWS_SSE_KMS_KEY_ID",
    "AWS_UNSIGNED_PAYLOAD",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

const GOOGLE: &[&str] = &[
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_BASE_URL",
    "GOOGLE_BEARER_TOKEN",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_SKIP_SIGNATURE",
];

const AZURE: &[&str] = &[
    "AZURE_DISABLE_TAGGING",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_MSI_ENDPOINT",
    "AZURE_MSI_RESOURCE_ID",
    "AZURE_OBJECT_ID",
    "AZURE_SKIP_SIGNATURE",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_AUTHORITY_HOST",
    "AZURE_STORAGE_CLIENT_ID",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_TENANT_ID",
    "AZURE_STORAGE_TOKEN",
    "AZURE_STORAGE_USE_EMULATOR",
    "AZURE_USE_AZURE_CLI",
];

impl Provider {
    fn prefix(self) -> &'static str {
        match self {
            Provider::File => "",
            Provider::Amazon => "AWS_",
            Provider::Google => "GOOGLE_",
            Provider::Azure => "AZURE_",
        }
    }

    fn own(self) -> &'static [&'static str] {
        match self {
            Provider::File => &[],
            Provider::Amazon => AMAZON,
            Provider::Google => GOOGLE,
            Provider::Azure => AZURE,
        }
    }

    fn takes(self, name: &str) -> bool {
        let client = || name.strip_prefix(self.prefix()).is_some_and(|rest| CLIENT.contains(&rest));
        self != Provider::File && (self.own().contains(&name) || client())
    }

    fn names(self) -> String {
        let client = CLIENT.iter().map(|name| format!("{}{name}", self.prefix()));
        let mut names: Vec<_> = self.own().iter().map(ToString::to_string).chain(client).collect();
        names.sort();
        names.join(", ")
    }

    /// As the builder of the store knows it.
    pub(super) fn builder_name(self, name: &str) -> String {
        name.to_ascii_lowercase()
    }

    /// The options that name where requests go.
    pub(super) fn endpoints(self) -> &'static [&'static str] {
        match self {
            Provider::File => &[],
            Provider::Amazon => &["AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"],
            Provider::Google => &["GOOGLE_BASE_URL"],
            Provider::Azure => &["AZURE_STORAGE_ENDPOINT"],
        }
    }

    pub(super) fn allow_http(self) -> String {
        format!("{}ALLOW_HTTP", self.prefix())
    }
}

/// Why a store was not opened. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not a URL.
    #[error("the checkpoint storage {url:?} is no URL ({message}); supported are {SCHEMES}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong.
        message: String,
    },
    /// A URL of something else.
    #[error("the checkpoint storage {url} has the scheme {scheme:?}; supported are {SCHEMES}")]
    Scheme {
        /// What was given.
        url: String,
        /// Its scheme.
        scheme: String,
    },
    /// A path that stores take differently, or not at all.
    #[error(
        "the checkpoint storage {url} has a path that is refused ({message}): its parts must not be empty, \".\" or \
         \"..\", and consist of letters, digits, '-', '_', '.', '=' and '+'"
    )]
    Path {
        /// What was given.
        url: String,
        /// What is wrong.
        message: String,
    },
    /// An option that is not in the list.
    #[error("the option {name} is unknown for the checkpoint storage {url}; known are: {known}")]
    Option {
        /// Its name.
        name: String,
        /// For which store.
        url: String,
        /// What would have been taken.
        known: String,
    },
    /// One option, two values.
    #[error("the option {name} is given twice, with two values")]
    Twice {
        /// Its name.
        name: String,
    },
    /// Credentials would go over the network as plain text.
    #[error("{option} of the checkpoint storage {url} is an http:// URL; if that is meant, set {allow}=true")]
    Http {
        /// For which store.
        url: String,
        /// Which option names it.
        option: &'static str,
        /// Which option allows it.
        allow: String,
    },
    /// What the client library says of the options.
    #[error("the checkpoint storage {url} cannot be opened: {message}")]
    Client {
        /// Which.
        url: String,
        /// Why.
        message: String,
    },
    /// A folder.
    #[error("the folder {folder} of the checkpoint storage cannot be made or opened: {source}")]
    Folder {
        /// Which.
        folder: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Options of a store, by name.
#[derive(Clone, Default)]
pub struct Options {
    given: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
}

impl fmt::Debug for Options {
    /// Names only: values are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("given", &self.given.keys())
            .field("environment", &self.environment.keys())
            .finish()
    }
}

impl Options {
    /// None.
    pub fn none() -> Options {
        Options::default()
    }

    /// Those of this process's environment.
    pub fn of_environment() -> Options {
        Options::none().with_environment(std::env::vars())
    }

    /// With one that somebody wrote down: it must be known. Upper and lower case are the same.
    pub fn with(mut self, name: &str, value: &str) -> Result<Options, OpenError> {
        let name = name.to_ascii_uppercase();
        match self.given.insert(name.clone(), value.to_owned()) {
            Some(former) if former != value => Err(OpenError::Twice { name }),
            _ => Ok(self),
        }
    }

    /// With those of the environment's variables that are known, which other options beat. Others are not looked at.
    pub fn with_environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Options {
        let known = |name: &str| [Provider::Amazon, Provider::Google, Provider::Azure].iter().any(|p| p.takes(name));
        self.environment.extend(variables.into_iter().filter(|(name, value)| known(name) && !value.is_empty()));
        self
    }

    /// What goes to this store.
    pub(super) fn of(&self, provider: Provider, url: &str) -> Result<BTreeMap<String, String>, OpenError> {
        if let Some(name) = self.given.keys().find(|name| !provider.takes(name)) {
            let known = if provider == Provider::File { "none".to_owned() } else { provider.names() };
            return Err(OpenError::Option { name: name.clone(), url: url.to_owned(), known });
        }
        let mut options = self.environment.clone();
        options.retain(|name, _| provider.takes(name));
        options.extend(self.given.clone());
        let secure = options.get(&provider.allow_http()).is_none_or(|allow| !allow.eq_ignore_ascii_case("true"));
        let is_http =
            |name: &&&str| options.get(**name).is_some_and(|url| url.to_ascii_lowercase().starts_with("http://"));
        if let Some(option) = provider.endpoints().iter().find(is_http).filter(|_| secure) {
            return Err(OpenError::Http { url: url.to_owned(), option, allow: provider.allow_http() });
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use object_store::aws::AmazonS3ConfigKey;
    use object_store::azure::AzureConfigKey;
    use object_store::gcp::GoogleConfigKey;

    use super::*;

    fn given(options: &[(&str, &str)]) -> Options {
        options.iter().fold(Options::none(), |all, (name, value)| all.with(name, value).expect("once each"))
    }

    fn pairs(of: BTreeMap<String, String>) -> Vec<(String, String)> {
        of.into_iter().collect()
    }

    #[test]
    fn the_library_knows_every_option_of_the_lists() {
        for provider in [Provider::Amazon, Provider::Google, Provider::Azure] {
            for name in provider.names().split(", ") {
                let name = provider.builder_name(name);
                let known = match provider {
                    Provider::Amazon => name.parse::<AmazonS3ConfigKey>().is_ok(),
                    Provider::Google => name.parse::<GoogleConfigKey>().is_ok(),
                    Provider::Azure => name.parse::<AzureConfigKey>().is_ok(),
                    Provider::File => false,
                };
                assert!(known, "{name}");
            }
        }
    }

    #[test]
    fn what_is_written_down_and_unknown_is_refused_by_name() {
        for name in ["AWS_ACES_KEY", "ENDPOINT", "TOKEN", "TIMEOUT", "AWS_BUCKET", "GOOGLE_BEARER_TOKEN", "MAX_RETRIES"]
        {
            let error = given(&[(name, "x")]).of(Provider::Amazon, "s3://b").expect_err(name).to_string();
            assert!(error.contains(name) && error.contains("AWS_REGION"), "{error}");
        }
        let error = given(&[("FSYNC", "false")]).of(Provider::File, "file:///x").expect_err("no options").to_string();
        assert!(error.contains("FSYNC") && error.contains("none"), "{error}");
    }

    #[test]
    fn variables_of_other_programs_are_not_looked_at() {
        let variables =
            ["ENDPOINT", "TOKEN", "TIMEOUT", "AWS_PROFILE", "AWS_PAGER", "GOOGLE_BEARER_TOKEN", "aws_region"];
        let variables = variables.map(|name| (name.to_owned(), "theirs".to_owned()));
        let ours = ("AWS_REGION".to_owned(), "eu-1".to_owned());
        let options = Options::none().with_environment(variables.into_iter().chain([ours.clone()]));
        assert_eq!(pairs(options.of(Provider::Amazon, "s3://b").expect("taken")), [ours]);
        assert_eq!(pairs(options.of(Provider::File, "file:///x").expect("taken")), []);
    }

    #[test]
    fn what_is_written_down_beats_a_variable() {
        let variables = [("AWS_REGION".to_owned(), "theirs".to_owned())];
        let options = given(&[("aws_region", "ours")]).with_environment(variables);
        let taken = options.of(Provider::Amazon, "s3://b").expect("taken");
        assert_eq!(pairs(taken), [("AWS_REGION".to_owned(), "ours".to_owned())]);
    }

    #[test]
    fn one_option_has_one_value() {
        let options = given(&[("AWS_REGION", "a")]);
        assert!(options.clone().with("aws_region", "a").is_ok());
        assert!(matches!(options.with("aws_region", "b"), Err(OpenError::Twice { .. })));
    }

    #[test]
    fn plain_http_is_asked_for() {
        let endpoint = ("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
        let error = given(&[endpoint]).of(Provider::Amazon, "s3://b").expect_err("plain text").to_string();
        assert!(error.contains("AWS_ALLOW_HTTP=true"), "{error}");
        assert!(given(&[endpoint, ("AWS_ALLOW_HTTP", "true")]).of(Provider::Amazon, "s3://b").is_ok());
    }

    #[test]
    fn values_are_not_shown() {
        let shown = format!("{:?}", given(&[("AWS_SECRET_ACCESS_KEY", "hush")]));
        assert!(shown.contains("AWS_SECRET_ACCESS_KEY") && !shown.contains("hush"), "{shown}");
    }
}
