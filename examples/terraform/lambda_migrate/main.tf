# The lease table, and what a Lambda function with @migrate_on_cold_start needs for one database:
# environment variables (output "environment") and a policy (output "policy_json").

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "target" {
  description = "Key of the database's item in the lease table."
  type        = string
}

variable "environment" {
  description = "Name of the environment, such as production; the database keeps it."
  type        = string
}

variable "database_url" {
  description = "Host, port and database, without a password: postgresql://host:5432/name."
  type        = string
}

variable "database_secret_arn" {
  description = "Secret with username and password of the role that migrates."
  type        = string
}

variable "table_name" {
  description = "Name of the lease table."
  type        = string
  default     = "lambda-migrate"
}

variable "ssl_root_certificate" {
  description = "Where Amazon's certificate bundle lies in the package."
  type        = string
  default     = "/var/task/global-bundle.pem"
}

variable "service" {
  description = "Powertools' service name, and dimension \"service\" of every metric."
  type        = string
}

variable "metrics_namespace" {
  description = "CloudWatch namespace of the metrics."
  type        = string
  default     = "lambda-migrate"
}

variable "alarm_topic_arns" {
  description = "SNS topics that get every alarm."
  type        = list(string)
  default     = []
}

resource "aws_dynamodb_table" "lease" {
  name                        = var.table_name
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "target"
  deletion_protection_enabled = true

  attribute {
    name = "target"
    type = "S"
  }

  point_in_time_recovery {
    enabled = true
  }

  lifecycle {
    prevent_destroy = true
  }
}

data "aws_iam_policy_document" "migrate" {
  statement {
    sid       = "Lease"
    actions   = ["dynamodb:GetItem", "dynamodb:UpdateItem"]
    resources = [aws_dynamodb_table.lease.arn]

    condition {
      test     = "ForAllValues:StringEquals"
      variable = "dynamodb:LeadingKeys"
      values   = [var.target]
    }
  }

  statement {
    sid       = "MigratorSecret"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [var.database_secret_arn]
  }
}

locals {
  alarms = {
    MigrationFailed    = { statistic = "Sum", threshold = 1, comparison = "GreaterThanOrEqualToThreshold", period = 60, periods = 1 }
    LeaseTakeover      = { statistic = "Sum", threshold = 1, comparison = "GreaterThanOrEqualToThreshold", period = 60, periods = 1 }
    NotReady           = { statistic = "Sum", threshold = 1, comparison = "GreaterThanOrEqualToThreshold", period = 60, periods = 1 }
    LeaseWaitTime      = { statistic = "Maximum", threshold = 20000, comparison = "GreaterThanThreshold", period = 60, periods = 1 }
    LeaseHeldTime      = { statistic = "Maximum", threshold = 300000, comparison = "GreaterThanThreshold", period = 60, periods = 1 }
    ColdStartCheckTime = { statistic = "p90", threshold = 1000, comparison = "GreaterThanThreshold", period = 300, periods = 3 }
  }
}

resource "aws_cloudwatch_metric_alarm" "library" {
  for_each = local.alarms

  alarm_name          = "${var.service}-${var.target}-${each.key}"
  namespace           = var.metrics_namespace
  metric_name         = each.key
  statistic           = startswith(each.value.statistic, "p") ? null : each.value.statistic
  extended_statistic  = startswith(each.value.statistic, "p") ? each.value.statistic : null
  threshold           = each.value.threshold
  comparison_operator = each.value.comparison
  period              = each.value.period
  evaluation_periods  = each.value.periods
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topic_arns
  ok_actions          = var.alarm_topic_arns

  dimensions = {
    service = var.service
    target  = var.target
  }
}

output "environment" {
  description = "Environment variables of the function."
  value = {
    LAMBDA_MIGRATE_TABLE           = aws_dynamodb_table.lease.name
    LAMBDA_MIGRATE_TARGET          = var.target
    LAMBDA_MIGRATE_ENVIRONMENT     = var.environment
    LAMBDA_MIGRATE_DATABASE_URL    = var.database_url
    LAMBDA_MIGRATE_DATABASE_SECRET = var.database_secret_arn
    LAMBDA_MIGRATE_SSLROOTCERT     = var.ssl_root_certificate
    POWERTOOLS_SERVICE_NAME        = var.service
    POWERTOOLS_METRICS_NAMESPACE   = var.metrics_namespace
  }
}

output "policy_json" {
  description = "The policy of the function's role."
  value       = data.aws_iam_policy_document.migrate.json
}
