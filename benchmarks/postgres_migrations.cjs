// postgres-migrations is a library; this is the program that its README shows: DIRECTORY, and DATABASE_URL.
const pg = require("pg");
const { migrate } = require("postgres-migrations");

async function main(directory) {
  const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
  await client.connect();
  try {
    await migrate({ client }, directory);
  } finally {
    await client.end();
  }
}

main(process.argv[2]).catch((error) => {
  console.error(error);
  process.exit(1);
});
