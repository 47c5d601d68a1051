package access

import (
	"fmt"
	"strings"
)

// generated is the first line of each template.
const generated = "# Generated from the calls that the code makes by \"make generate\"; do not edit.\n"

// principalPattern is what may stand for TrustedPrincipal. An asterisk may not:
// the whole world would be trusted.
const principalPattern = `^([0-9]{12}|arn:aws[a-z-]*:iam::[0-9]{12}:(root|(role|user)/[A-Za-z0-9+=,.@_/-]+))$`

// externalIDPattern is what AWS allows, in at least 16 characters. That there
// are at most 1224 it leaves to AWS: Terraform's expressions count no further than 1000.
const externalIDPattern = `^[A-Za-z0-9+=,.@:/_-]{16,}$`

// CloudFormation is the template that makes the role with a policy of the
// actions, for a stack of one account or for a StackSet.
func CloudFormation(allowed []string) string {
	var actions strings.Builder
	for _, a := range allowed {
		fmt.Fprintf(&actions, "                  - %s\n", a)
	}
	return generated + `AWSTemplateFormatVersion: "2010-09-09"
Description: >-
  The role with which Nightshift reads this account. It can list and describe, and neither change anything nor read data.
  As a stack it is for one account, as a StackSet for many: IAM is global, so one region is enough.

Parameters:
  TrustedPrincipal:
    Type: String
    Description: Who Nightshift is, as "nightshift accounts onboard" prints it - the ARN of a role or user, or an account number.
    AllowedPattern: '` + principalPattern + `'
    ConstraintDescription: must be the ARN of an IAM role, user or account root, or a 12-digit account number
  ExternalId:
    Type: String
    Description: The external id that Nightshift chose for this account, or for all accounts of a StackSet.
    AllowedPattern: '` + externalIDPattern + `'
    ConstraintDescription: must be an external id of at least 16 characters, as Nightshift prints it
  RoleName:
    Type: String
    Description: Name of the role, as registered in Nightshift.
    Default: ` + DefaultRole + `
    AllowedPattern: '^[A-Za-z0-9+=,.@_-]{1,64}$'
  RolePath:
    Type: String
    Description: Path of the role, with a slash at both ends.
    Default: /
    AllowedPattern: '^/([A-Za-z0-9+=,.@_-]+/)*$'

Resources:
  Role:
    Type: AWS::IAM::Role
    Properties:
      RoleName: !Ref RoleName
      Path: !Ref RolePath
      Description: Nightshift reads this account with it, and changes nothing.
      MaxSessionDuration: 3600
      AssumeRolePolicyDocument:
        Version: "2012-10-17"
        Statement:
          - Effect: Allow
            Principal:
              AWS: !Ref TrustedPrincipal
            Action: sts:AssumeRole
            Condition:
              StringEquals:
                sts:ExternalId: !Ref ExternalId
      Policies:
        - PolicyName: ` + DefaultRole + `
          PolicyDocument:
            Version: "2012-10-17"
            Statement:
              - Sid: NightshiftReadOnly
                Effect: Allow
                Action:
` + actions.String() + `                Resource: "*"

Outputs:
  RoleArn:
    Description: What to register in Nightshift.
    Value: !GetAtt Role.Arn
`
}

// Terraform is the module that makes the role with a policy of the actions.
func Terraform(allowed []string) string {
	var actions strings.Builder
	for _, a := range allowed {
		fmt.Fprintf(&actions, "      %q,\n", a)
	}
	return generated + `# The role with which Nightshift reads an account. It can list and describe, and neither change anything nor read data.

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
    condition     = can(regex("` + principalPattern + `", var.trusted_principal))
    error_message = "The trusted_principal must be the ARN of an IAM role, user or account root, or a 12-digit account number."
  }
}

variable "external_id" {
  description = "The external id that Nightshift chose for the account."
  type        = string

  validation {
    condition     = can(regex("` + externalIDPattern + `", var.external_id))
    error_message = "The external_id must have at least 16 characters, as Nightshift prints it."
  }
}

variable "role_name" {
  description = "Name of the role, as registered in Nightshift."
  type        = string
  default     = "` + DefaultRole + `"
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
` + actions.String() + `    ]
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
  name   = "` + DefaultRole + `"
  role   = aws_iam_role.nightshift.id
  policy = data.aws_iam_policy_document.read.json
}

output "role_arn" {
  description = "What to register in Nightshift."
  value       = aws_iam_role.nightshift.arn
}
`
}
