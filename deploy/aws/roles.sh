#!/usr/bin/env bash
# Makes the two roles that cluster.yaml names; run once per account: bash deploy/aws/roles.sh BUCKET [CLUSTER_NAME]
#   raysys-head    what Ray's AWS node provider calls: starts nodes with the tag ray-cluster-name=CLUSTER_NAME (raysys), and
#                  ends and tags those alone; hands them raysys-worker; looks up the machine image; reads and writes the bucket.
#                  Key pair and security group are made by `ray up`, with the rights of who calls it.
#   raysys-worker  reads and writes the bucket
set -euo pipefail

bucket=${1:?usage: bash deploy/aws/roles.sh BUCKET [CLUSTER_NAME]}
cluster=${2:-raysys}
account=$(aws sts get-caller-identity --query Account --output text)

trust='{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}'
storage='{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::'$bucket'"},
  {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
   "Resource": "arn:aws:s3:::'$bucket'/*"}]}'
launch='{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Resource": "*",
   "Action": ["ec2:DescribeInstances", "ec2:DescribeInstanceTypes", "ec2:DescribeImages"]},
  {"Effect": "Allow", "Action": "ec2:RunInstances", "Resource": "arn:aws:ec2:*:'$account':instance/*",
   "Condition": {"StringEquals": {"aws:RequestTag/ray-cluster-name": "'$cluster'"}}},
  {"Effect": "Allow", "Action": "ec2:RunInstances", "Resource": [
   "arn:aws:ec2:*::image/*", "arn:aws:ec2:*::snapshot/*", "arn:aws:ec2:*:'$account':volume/*",
   "arn:aws:ec2:*:'$account':subnet/*", "arn:aws:ec2:*:'$account':network-interface/*",
   "arn:aws:ec2:*:'$account':security-group/*", "arn:aws:ec2:*:'$account':key-pair/*",
   "arn:aws:ec2:*:'$account':spot-instances-request/*"]},
  {"Effect": "Allow", "Action": "ec2:CreateTags", "Resource": "arn:aws:ec2:*:'$account':instance/*",
   "Condition": {"StringEquals": {"ec2:CreateAction": "RunInstances"}}},
  {"Effect": "Allow", "Resource": "arn:aws:ec2:*:'$account':instance/*",
   "Action": ["ec2:CreateTags", "ec2:TerminateInstances", "ec2:StopInstances", "ec2:StartInstances"],
   "Condition": {"StringEquals": {"aws:ResourceTag/ray-cluster-name": "'$cluster'"}}},
  {"Effect": "Allow", "Action": "iam:PassRole", "Resource": "arn:aws:iam::'$account':role/raysys-worker",
   "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}},
  {"Effect": "Allow", "Action": "ssm:GetParameters", "Resource": "arn:aws:ssm:*::parameter/aws/service/deeplearning/*"}]}'

for role in raysys-head raysys-worker; do
    aws iam create-role --role-name $role --assume-role-policy-document "$trust" > /dev/null
    aws iam put-role-policy --role-name $role --policy-name storage --policy-document "$storage"
    aws iam create-instance-profile --instance-profile-name $role > /dev/null
    aws iam add-role-to-instance-profile --instance-profile-name $role --role-name $role
done
aws iam put-role-policy --role-name raysys-head --policy-name launch --policy-document "$launch"
# The role by which AWS itself starts spot nodes; an account has it once somebody has asked for one.
aws iam create-service-linked-role --aws-service-name spot.amazonaws.com > /dev/null 2>&1 || true
echo "roles raysys-head and raysys-worker made, with access to s3://$bucket, for the cluster $cluster"
