#!/usr/bin/env bash
# Makes the two roles that cluster.yaml names; run once per account: bash deploy/aws/roles.sh BUCKET
#   raysys-head    starts and ends nodes, hands them raysys-worker, looks up the machine image; reads and writes the bucket
#   raysys-worker  reads and writes the bucket
set -euo pipefail

bucket=${1:?usage: bash deploy/aws/roles.sh BUCKET}
account=$(aws sts get-caller-identity --query Account --output text)

trust='{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}'
storage='{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::'$bucket'"},
  {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
   "Resource": "arn:aws:s3:::'$bucket'/*"}]}'
launch='{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": "iam:PassRole", "Resource": "arn:aws:iam::'$account':role/raysys-worker"},
  {"Effect": "Allow", "Action": "ssm:GetParameters", "Resource": "arn:aws:ssm:*::parameter/aws/service/deeplearning/*"}]}'

for role in raysys-head raysys-worker; do
    aws iam create-role --role-name $role --assume-role-policy-document "$trust" > /dev/null
    aws iam put-role-policy --role-name $role --policy-name storage --policy-document "$storage"
    aws iam create-instance-profile --instance-profile-name $role > /dev/null
    aws iam add-role-to-instance-profile --instance-profile-name $role --role-name $role
done
aws iam put-role-policy --role-name raysys-head --policy-name launch --policy-document "$launch"
aws iam attach-role-policy --role-name raysys-head --policy-arn arn:aws:iam::aws:policy/AmazonEC2FullAccess
echo "roles raysys-head and raysys-worker made, with access to s3://$bucket"
