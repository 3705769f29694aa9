# A function that migrates on cold start, with the module beside this file.

variable "subnet_ids" { type = list(string) }
variable "security_group_ids" { type = list(string) }
variable "role_arn" { type = string }
variable "role_name" { type = string }
variable "database_secret_arn" { type = string }
variable "package" { type = string }

module "migrations" {
  source              = "./lambda_migrate"
  target              = "orders"
  environment         = "production"
  service             = "orders"
  database_url        = "postgresql://db.example.com:5432/orders"
  database_secret_arn = var.database_secret_arn
}

resource "aws_iam_role_policy" "migrations" {
  name   = "lambda-migrate"
  role   = var.role_name
  policy = module.migrations.policy_json
}

resource "aws_lambda_function" "orders" {
  function_name = "orders"
  runtime       = "python3.13"
  handler       = "app.handler"
  filename      = var.package
  role          = var.role_arn
  timeout       = 29
  memory_size   = 512

  environment {
    variables = module.migrations.environment
  }

  vpc_config {
    subnet_ids         = var.subnet_ids
    security_group_ids = var.security_group_ids
  }
}
