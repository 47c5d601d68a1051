# Generated from the calls that the code makes by "make generate"; do not edit.
# The role with which Nightshift reads an account. It can list and describe, and neither change anything nor read data.

terraform {
  required_version = ">= 1.3"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 4.0"
    }
  }
}

variable "trusted_principal" {
  description = "Who Nightshift is, as \"nightshift accounts onboard\" prints it: the ARN of a role or user, or an account number."
  type        = string

  validation {
    condition     = can(regex("^([0-9]{12}|arn:aws[a-z-]*:iam::[0-9]{12}:(root|(role|user)/[A-Za-z0-9+=,.@_/-]+))$", var.trusted_principal))
    error_message = "The trusted_principal must be the ARN of an IAM role, user or account root, or a 12-digit account number."
  }
}

variable "external_id" {
  description = "The external id that Nightshift chose for the account."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9+=,.@:/_-]{16,}$", var.external_id))
    error_message = "The external_id must have at least 16 characters, as Nightshift prints it."
  }
}

variable "role_name" {
  description = "Name of the role, as registered in Nightshift."
  type        = string
  default     = "NightshiftReadOnly"
}

variable "role_path" {
  description = "Path of the role, with a slash at both ends."
  type        = string
  default     = "/"
}

data "aws_iam_policy_document" "trust" {
  statement {
    effect  = "Allow"
    actions = ["sts:AssumeRole"]

    principals {
      type        = "AWS"
      identifiers = [var.trusted_principal]
    }

    condition {
      test     = "StringEquals"
      variable = "sts:ExternalId"
      values   = [var.external_id]
    }
  }
}

data "aws_iam_policy_document" "read" {
  statement {
    sid       = "NightshiftReadOnly"
    effect    = "Allow"
    resources = ["*"]
    actions = [
      "cloudwatch:GetMetricData",
      "cloudwatch:ListMetrics",
      "ec2:DescribeAddresses",
      "ec2:DescribeImages",
      "ec2:DescribeInstanceImageMetadata",
      "ec2:DescribeInstances",
      "ec2:DescribeManagedPrefixLists",
      "ec2:DescribeNetworkInterfaces",
      "ec2:DescribeRegions",
      "ec2:DescribeRouteTables",
      "ec2:DescribeSecurityGroupRules",
      "ec2:DescribeSecurityGroups",
      "ec2:DescribeSnapshots",
      "ec2:DescribeVolumes",
      "ec2:GetEbsEncryptionByDefault",
      "ec2:GetManagedPrefixListEntries",
      "sts:GetCallerIdentity",
    ]
  }
}

resource "aws_iam_role" "nightshift" {
  name                 = var.role_name
  path                 = var.role_path
  description          = "Nightshift reads this account with it, and changes nothing."
  max_session_duration = 3600
  assume_role_policy   = data.aws_iam_policy_document.trust.json
}

resource "aws_iam_role_policy" "nightshift" {
  name   = "NightshiftReadOnly"
  role   = aws_iam_role.nightshift.id
  policy = data.aws_iam_policy_document.read.json
}

output "role_arn" {
  description = "What to register in Nightshift."
  value       = aws_iam_role.nightshift.arn
}
